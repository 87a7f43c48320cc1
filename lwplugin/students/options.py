"""What a student family is, the options all families share, and how much a student may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lwplugin.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lwplugin.data import Inputs

WIDEST = 8.0
SMALL_IMAGE = 64
"""Pixels of the longer side up to which a stem keeps the resolution."""


class StudentBudget(BaseModel):
    """What a student may cost at most; the widest that stays below every limit is taken.

    Up to 1 a limit is a share of the (first) teacher's own cost, above it is the number itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: float | None = Field(None, gt=0, description="Parameters.")
    macs: float | None = Field(None, gt=0, description="Multiply-accumulates of one example.")
    size_bytes: float | None = Field(None, gt=0, description="Bytes of parameters and buffers.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.limits:
            raise ValueError("a budget needs one of params, macs and size_bytes")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: float(value) for name, value in self.model_dump(exclude_none=True).items()}


class StudentOptions(BaseModel):
    """Options of every family. What is left out is taken from the data and the teacher, or as published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    width: float | None = Field(
        None,
        gt=0,
        le=WIDEST,
        description="Channels relative to the published net; left out: 1, or what the budget allows.",
    )
    budget: StudentBudget | None = Field(None, description="Take the widest student that costs no more.")
    classes: int | None = Field(None, ge=1, description="Outputs; the teacher's, else 1000.")

    @model_validator(mode="after")
    def _width_or_budget(self) -> Self:
        if self.width is not None and self.budget is not None:
            raise ValueError("width and budget exclude each other: the budget decides the width")
        return self

    def suited(self, inputs: Inputs, outputs: Tensor, teacher: nn.Module | None) -> Self:
        """With what is left out taken from examples, the answers wanted for them and the teacher.

        Raises ModelError for inputs that the family cannot take.
        """
        raise NotImplementedError

    def _filled(self, **found: Any) -> Self:
        """Options that were left out, filled in."""
        return self.model_copy(
            update={name: value for name, value in found.items() if getattr(self, name) is None}
        )

    def _wrong_inputs(self, wanted: str, inputs: Inputs) -> ModelError:
        from lwplugin.data.batch import tensors

        got = ", ".join(f"{n} {list(t.shape)} {t.dtype}" for n, t in tensors(inputs).items())
        return ModelError(
            f"A student of the family '{self.family}' takes {wanted}", got=got, do="take another family"
        )


class ImageOptions(StudentOptions):
    """Options of families that take images [n, channels, h, w] and answer [n, classes]."""

    channels: int | None = Field(None, ge=1, description="Of the images; as in the data, else 3.")
    stem: Literal["imagenet", "small"] | None = Field(
        None,
        description=f"small: no early halving, for images up to {SMALL_IMAGE} pixels a side, where it is the default.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Before the classifier, in training.")

    @property
    def small(self) -> bool:
        """Whether the stem keeps the resolution."""
        return self.stem == "small"

    def suited(self, inputs: Inputs, outputs: Tensor, teacher: nn.Module | None) -> Self:
        import torch

        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4 or not inputs.is_floating_point():
            raise self._wrong_inputs("images [n, channels, height, width]", inputs)
        stem = "small" if max(inputs.shape[2:]) <= SMALL_IMAGE else "imagenet"
        return self._filled(classes=outputs.shape[-1], channels=inputs.shape[1], stem=stem)


@dataclass(frozen=True)
class Family:
    """One family of students."""

    name: str
    options: type[StudentOptions]
    make: Callable[[Any], nn.Module]
    """Options → a module with fresh weights. Draws random numbers for initial weights only."""
    summary: str
