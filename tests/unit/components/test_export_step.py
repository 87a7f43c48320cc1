"""The export step: the parent's comes first in a run, so it also says what would go wrong at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    parent = Resolved(name="net", version="1", uri="models:/net/1", source="s")
    _, planned, compress, *rest = make_plan(parse_recipe(yaml.safe_dump(recipe)), parent).steps
    assert (planned.id, compress.id) == ("export-parent-onnx", "quantize")
    assert "corruptions" not in rest[0].config  # the light model's own export looks at nothing twice
    lwplugin.light(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).save(tmp_path / "pulled" / "bundle")
    step = step_named("export")
    config = step.config.model_validate(planned.config)
    with pytest.raises(DataError, match=r"'typos' means nothing to these examples.*use noise, blur"):
        execute(step, config, {"bundle": Artifact.of(tmp_path / "pulled")}, Store(tmp_path / "store"))
