"""Which model is taught: the one handed over, one of a built-in family, or what a function of the user's builds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from torch import nn

from lwplugin.data.batch import call, device_of
from lwplugin.distill.teacher import Together
from lwplugin.errors import LwpluginError, did_you_mean
from lwplugin.students import FAMILIES, options_of
from lwplugin.students.budget import fitted, limits
from lwplugin.students.mobilenet_v1 import MobileNetV1Options
from lwplugin.students.mobilenet_v2 import MobileNetV2Options
from lwplugin.students.options import StudentOptions
from lwplugin.students.recurrent import RecurrentOptions
from lwplugin.students.shufflenet_v1 import ShuffleNetV1Options
from lwplugin.students.shufflenet_v2 import ShuffleNetV2Options
from lwplugin.students.squeezenet import SqueezeNetOptions
from lwplugin.students.transformer import TransformerOptions
from lwplugin.training.randomness import own_randomness

if TYPE_CHECKING:
    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.model.cost import Cost

BUILD = "lwplugin.students:build"


class OwnStudent(BaseModel):
    """What a function of the user's builds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str = Field(
        description="`package.module:function` that builds it, importable wherever it is loaded."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Its arguments, plain JSON.")


def _named(given: Any) -> Any:
    """A bare name is a family; names that are not known are answered with the nearest."""
    if isinstance(given, str):
        given = {"family": given}
    if not isinstance(given, dict) or "module" in given:
        return given
    family = given.get("family")
    if family not in FAMILIES:
        raise ValueError(f"'{family}' is no family of students; {did_you_mean(str(family), FAMILIES)}")
    known = FAMILIES[family].options.model_fields
    for name in given:
        if name not in known:
            raise ValueError(f"a student '{family}' has no option '{name}'; {did_you_mean(str(name), known)}")
    return given


def _tag(given: Any) -> str:
    if isinstance(given, OwnStudent) or (isinstance(given, dict) and "module" in given):
        return "module"
    return str(given.get("family") if isinstance(given, dict) else getattr(given, "family", given))


_Variant: TypeAlias = Annotated[
    Annotated[OwnStudent, Tag("module")]
    | Annotated[MobileNetV1Options, Tag("mobilenet_v1")]
    | Annotated[MobileNetV2Options, Tag("mobilenet_v2")]
    | Annotated[SqueezeNetOptions, Tag("squeezenet")]
    | Annotated[ShuffleNetV1Options, Tag("shufflenet_v1")]
    | Annotated[ShuffleNetV2Options, Tag("shufflenet_v2")]
    | Annotated[TransformerOptions, Tag("transformer")]
    | Annotated[RecurrentOptions, Tag("recurrent")],
    Discriminator(_tag),
]
Student: TypeAlias = Annotated[_Variant, BeforeValidator(_named, json_schema_input_type=str | _Variant)]


def new_student(
    model: LightModel,
    asked: OwnStudent | StudentOptions,
    data: Data,
    teacher: nn.Module,
    seen: Data,
    *,
    seed: int,
) -> LightModel:
    """The student with fresh weights drawn by the seed, and the source, task and history of ``model``.

    A family's options that were left out come from the data and the teacher, who sees them as ``seen``; a budget
    decides the width.

    Raises ModelError where the student cannot be built, takes other inputs, or none is that small.
    """
    from lwplugin.model.bundle import light
    from lwplugin.model.origin import FactoryOrigin

    if isinstance(asked, OwnStudent):
        origin = FactoryOrigin(asked.module, asked.args)
    else:
        origin = FactoryOrigin(BUILD, options_of(_decided(asked, data, teacher, seen)))
    with own_randomness(seed, torch.device("cpu")):
        made = light(origin.build(), origin)
    made.module.to(device_of(model.module))
    return replace(
        made, source=model.source, task=model.task, signature=model.signature, history=model.history
    )


def _decided(asked: StudentOptions, data: Data, teacher: nn.Module, seen: Data) -> StudentOptions:
    inputs = data.example(2)
    with torch.no_grad():
        answers = data.task.outputs(call(teacher.eval(), seen.example(2)))
    options = asked.suited(inputs, answers, teacher)
    if options.budget is None:
        return options.model_copy(update={"width": options.width or 1.0})
    return fitted(FAMILIES[options.family], options, inputs, limits(options, _cost(teacher, seen.example())))


def _cost(teacher: nn.Module, inputs: Any) -> Cost | None:
    """Of the first teacher: it is what the student stands in for. None for a file, which has no layers."""
    from lwplugin.model.cost import cost

    try:
        found = cost(teacher.parts[0] if isinstance(teacher, Together) else teacher, inputs)
    except LwpluginError:
        return None
    return found if found.params else None
