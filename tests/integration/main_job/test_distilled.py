"""A recipe that teaches a new student, quantizes it and teaches it on in that form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lwplugin.cli import invoke
from lwplugin.model import load


@pytest.mark.slow
def test_from_a_line_that_names_the_student_to_a_registered_quantized_one(
    at_home: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = {"lr": 1e-2, "schedule": "onecycle", "teachers": ["parent", "models:/digits-cnn/1"]}
    recipe = {
        "model": "models:/digits-cnn@champion",
        "data": {"source": "digits", "test_fraction": 0.4},
        "compress": [
            {
                "distill": {
                    "student": {"family": "squeezenet", "budget": {"params": 0.2}},
                    "epochs": 8,
                    **taught,
                }
            },
            {"quantize": {"method": "weight_only", "bits": 4, "group_size": 16}},
            {"distill": {"method": "hard", "epochs": 1, "lr": 1e-3}},
        ],
        "targets": [{"name": "edge-cpu", "budget": {"size_bytes": 400_000}}],
        "gate": {"max_drop": {"accuracy": 0.3}, "no_faster": "allow"},
        "register": {"alias": "taught-{target}"},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert invoke(("run", str(file), "--json")) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out)
    assert result["targets"]["edge-cpu"]["registration"]["alias"] == "taught-edge-cpu"
    paths = {step["id"]: Path(step["path"]) for step in result["steps"] if step.get("path")}
    parent, light = (load(paths[step] / "bundle") for step in ("pull", "distill-2"))
    assert [entry.step for entry in light.history] == ["distill", "quantize", "distill"]
    assert light.source == parent.source
    first = load(paths["distill"] / "bundle")
    assert sum(p.numel() for p in first.module.parameters()) <= 0.2 * sum(
        p.numel() for p in parent.module.parameters()
    )
    assert invoke(("plan", str(file), "--json")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert {step["state"] for step in planned["steps"] if step["step"] == "distill"} == {"found"}
