"""The export step: the parent's comes first in a run, so it also says what would go wrong at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lwplugin.components import step_named
from lwplugin.components.step import Artifact, execute
from lwplugin.pipelines.plan import make_plan
from torch import nn

import lwplugin
from lwplugin.artifact import Store
from lwplugin.errors import DataError
from lwplugin.recipe_file import parse_recipe
from lwplugin.registry import Resolved

PARENT = Resolved(name="net", version="1", uri="models:/net/1", source="s")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"x": np.zeros((8, 4)), "y": None}, "examples of test have no targets.*min_agreement"),
        ({"x_train": np.zeros((8, 4)), "y_train": np.zeros(8, int)}, "There is no test split"),
    ],
)
def test_a_metric_that_nothing_could_bound_is_refused_before_anything_is_compressed(
    kept: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **{name: array for name, array in kept.items() if array is not None})
    recipe: dict[str, Any] = {
        "model": "models:/net/1",
        "data": {"source": "npz", "path": str(tmp_path / "a.npz"), **({"y": None} if "y" in kept else {})},
        "compress": [{"quantize": {}}],
        "targets": [{"name": "edge-cpu"}],
        "gate": {"max_drop": {"accuracy": 0.01}},
    }
    planned = make_plan(parse_recipe(yaml.safe_dump(recipe)), PARENT).steps[1]
    lwplugin.light(nn.Sequential(nn.Linear(4, 2))).save(tmp_path / "pulled" / "bundle")
    step = step_named("export")
    config = step.config.model_validate(planned.config)
    with pytest.raises(DataError, match=message):
        execute(step, config, {"bundle": Artifact.of(tmp_path / "pulled")}, Store(tmp_path / "store"))


def test_corruptions_that_the_examples_cannot_have_are_refused_before_anything_is_compressed(
    tmp_path: Path,
) -> None:
    recipe: dict[str, Any] = {
        "model": "models:/net/1",
        "data": {"source": "digits"},
        "compress": [{"quantize": {}}],
        "targets": [{"name": "edge-cpu"}],
        "measure": {"corruptions": ["noise", "typos"]},
        "gate": {"max_drop": {"accuracy": 0.01}},
    }
    _, planned, compress, *rest = make_plan(parse_recipe(yaml.safe_dump(recipe)), PARENT).steps
    assert (planned.id, compress.id) == ("export-parent-onnx", "quantize")
    assert "corruptions" not in rest[0].config  # the light model's own export looks at nothing twice
    lwplugin.light(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).save(tmp_path / "pulled" / "bundle")
    step = step_named("export")
    config = step.config.model_validate(planned.config)
    with pytest.raises(DataError, match=r"'typos' means nothing to these examples.*use noise, blur"):
        execute(step, config, {"bundle": Artifact.of(tmp_path / "pulled")}, Store(tmp_path / "store"))
