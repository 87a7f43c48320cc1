"""A small LSTM or GRU over frames of features, as speech gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from lwplugin.students.convolution import channels
from lwplugin.students.options import Family, StudentOptions

if TYPE_CHECKING:
    from lwplugin.data import Inputs


class RecurrentOptions(StudentOptions):
    """Options of `recurrent`."""

    family: Literal["recurrent"] = "recurrent"
    cell: Literal["gru", "lstm"] = Field("gru", description="gru has three quarters of lstm's weights.")
    layers: int = Field(1, ge=1, description="Recurrent layers.")
    bidirectional: bool = Field(True, description="Read the frames backwards too.")
    features: int | None = Field(None, ge=1, description="Numbers a frame; as in the data, else 40.")
    pooling: Literal["mean", "last", "none"] | None = Field(
        None,
        description="mean over the frames; last: the last alone (streaming); none: an answer for each frame. "
        "As the teacher answers, else mean.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Before the classifier, in training.")

    def suited(self, inputs: Inputs, outputs: Tensor, teacher: nn.Module | None) -> Self:
        import torch

        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 3 or not inputs.is_floating_point():
            raise self._wrong_inputs("frames of features [n, frames, features]", inputs)
        pooling = "none" if outputs.ndim == 3 else "mean"
        return self._filled(classes=outputs.shape[-1], features=inputs.shape[2], pooling=pooling)


class Recurrent(nn.Module):
    """Frames [n, frames, features] → [n, classes], or [n, frames, classes] unpooled."""

    def __init__(self, options: RecurrentOptions) -> None:
        super().__init__()
        features, hidden = options.features or 40, channels(128 * (options.width or 1.0))
        made = nn.GRU if options.cell == "gru" else nn.LSTM
        self.norm = nn.BatchNorm1d(features)
        self.cells = made(
            features, hidden, options.layers, batch_first=True, bidirectional=options.bidirectional
        )
        wide = hidden * (2 if options.bidirectional else 1)
        self.drop = nn.Dropout(options.dropout)
        self.head = nn.Linear(wide, options.classes or 1000)
        self.pooling = options.pooling or "mean"

    def forward(self, frames: Tensor) -> Tensor:
        """Each feature is brought to one scale first, by the statistics of the training examples."""
        seen, _ = self.cells(self.norm(frames.transpose(1, 2)).transpose(1, 2))
        if self.pooling != "none":
            seen = seen.mean(1) if self.pooling == "mean" else seen[:, -1]
        return self.head(self.drop(seen))


def make(options: Any) -> nn.Module:
    """128 hidden units a direction at width 1."""
    return Recurrent(options)


FAMILY = Family("recurrent", RecurrentOptions, make, "LSTM or GRU (frames of features)")
