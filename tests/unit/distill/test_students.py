"""A line of the recipe names the student: a family, its width or its budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.data.batch import call
from lwplugin.errors import ModelError, RecipeError
from lwplugin.methods import option_model
from lwplugin.recipe import Compress, json_schema


def build_args(light: Any) -> dict[str, Any]:
    args: dict[str, Any] = light.origin.args
    return args


def test_a_student_by_name_fits_data_and_teacher_and_reloads(
    data: Data, teacher: nn.Module, tmp_path: Path
) -> None:
    light = lwplugin.distill(
        teacher,
        data,
        teacher=teacher,
        student={"family": "squeezenet", "width": 0.25},
        collapse=0,
        max_steps=2,
    )
    assert build_args(light).items() >= {"channels": 1, "classes": 10, "stem": "small"}.items()
    light.save(tmp_path / "bundle")
    images = data.example(4)
    with torch.no_grad():
        assert torch.equal(
            call(lwplugin.load(tmp_path / "bundle").module, images), call(light.module, images)
        )


def test_a_budget_is_a_number_or_a_share_of_the_teacher(data: Data) -> None:
    big = nn.Sequential(nn.Flatten(), nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 10))
    asked = {"family": "mobilenet_v1", "budget": {"params": 0.5, "macs": 2_000_000}}
    light = lwplugin.distill(big, data, teacher=big, student=asked, collapse=0, max_steps=1)
    assert sum(p.numel() for p in light.module.parameters()) <= 75_010 / 2
    assert light.cost(data.example()).macs <= 2_000_000
    assert light.history[-1].config["student"]["budget"] == {"params": 0.5, "macs": 2e6, "size_bytes": None}


def test_a_transformer_takes_vocabulary_and_answers_from_its_teacher() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(70, 8), nn.Linear(8, 4)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(input_ids))

    tokens = {"input_ids": torch.randint(0, 70, (64, 6)), "attention_mask": torch.ones(64, 6).long()}
    data = from_arrays(train=(tokens, None), task="token_classification", duplicates="ignore")
    teacher = Tagger()
    student = {"family": "transformer", "width": 0.125, "layers": 1}
    light = lwplugin.distill(teacher, data, teacher=teacher, student=student, collapse=0)
    assert build_args(light).items() >= {"vocabulary": 70, "classes": 4, "pooling": "none"}.items()


def test_what_cannot_be_says_so(data: Data, teacher: nn.Module) -> None:
    def ask(student: Any) -> None:
        lwplugin.distill(teacher, data, teacher=teacher, student=student)

    with pytest.raises(RecipeError, match="no family of students; did you mean 'mobilenet_v2'"):
        ask("mobilenet_2")
    with pytest.raises(RecipeError, match="has no option 'widht'; did you mean 'width'"):
        ask({"family": "squeezenet", "widht": 1})
    with pytest.raises(RecipeError, match="exclude each other"):
        ask({"family": "squeezenet", "width": 1, "budget": {"params": 1e6}})
    with pytest.raises(ModelError, match=r"takes token ids.*\[2, 1, 8, 8\]"):
        ask("transformer")


def test_the_recipe_writes_it_out_and_reads_it_again() -> None:
    line = Compress.model_validate({"distill": {"student": "shufflenet_v2"}}).complete(0)
    assert line.options["student"]["family"] == "shufflenet_v2"
    assert line.complete(0) == line
    assert option_model("distill", "soft").model_validate(line.options).student.family == "shufflenet_v2"
    assert "SqueezeNetOptions" in json_schema()["$defs"]
