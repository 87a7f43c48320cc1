from __future__ import annotations

import pytest
import yaml
from lwplugin.pipelines.batch import jobs

from lwplugin.errors import RecipeError
from lwplugin.recipe import Recipe
from lwplugin.recipe_file import parse_recipe


def recipe(model: str = "models:/net@champion", target: str = "edge") -> Recipe:
    document = {
        "model": model,
        "data": {"source": "digits"},
        "compress": [{"quantize": {}}],
        "targets": [{"name": target}],
        "gate": {"max_drop": {"accuracy": 0.01}},
    }
    return parse_recipe(yaml.safe_dump(document))


def test_one_recipe_for_many_models_and_one_each() -> None:
    made = jobs([recipe()], ["models:/a@champion", "models:/b/3"])
    assert [(job.name, job.recipe.model) for job in made] == [
        ("a@champion", "models:/a@champion"),
        ("b/3", "models:/b/3"),
    ]
    assert [job.name for job in jobs([recipe(), recipe("models:/b/3")])] == ["net@champion", "b/3"]


def test_two_recipes_for_one_model_are_told_apart() -> None:
    edge, server = recipe(), recipe(target="server")
    names = [job.name for job in jobs([edge, server])]
    assert names == [f"net@champion {edge.digest[:8]}", f"net@champion {server.digest[:8]}"]


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(RecipeError, match="one recipe for all"):
        jobs([recipe(), recipe()], ["models:/a/1"])
    with pytest.raises(RecipeError, match="got 'net'"):
        jobs([recipe()], ["net"])
