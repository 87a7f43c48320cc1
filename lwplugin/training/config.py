"""How to train: one set of defaults for the Python API, recipes and the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Options of the training loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(1, ge=0, description="Passes over train; 0 trains nothing.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps.")
    examples_per_epoch: int | None = Field(
        None,
        ge=1,
        description="So many examples of train in each epoch, others in the next; whole batches.",
    )
    batch_size: int = Field(64, ge=1, description="Examples per forward pass.")
    grad_accumulation: int = Field(
        1, ge=1, description="Batches per optimizer step; k batches of b step exactly as one of k·b would."
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="Optimizer.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        1e-2, ge=0, description="Weight decay; biases and norms (parameters of one dimension) are left out."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; unused by the others.")
    schedule: Literal["cosine", "constant", "linear", "onecycle", "step"] = Field(
        "cosine",
        description="Learning rate after the warm-up: to 0 by a cosine or a line, constant, one cycle from "
        "1/25 up and down to 0, or tenfold drops at half and three quarters.",
    )
    warmup_fraction: float = Field(0.0, ge=0, lt=1, description="Share of steps that ramp up linearly.")
    grad_clip: float | None = Field(None, gt=0, description="Largest global gradient norm.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing, for tasks over classes.")
    early_stop_patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better score on calibration."
    )
    keep_best: bool = Field(
        False, description="End with the weights of the epoch that scored best on calibration, not the last."
    )
    freeze_norm: bool = Field(
        False, description="Keep batch norms in evaluation mode: their running statistics do not change."
    )
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else off. fp16 needs a GPU and scales the loss."
    )
    device: str = Field("auto", description="auto: cuda where there is one, else cpu; or a torch device.")
    seed: int = Field(0, ge=0, description="Decides the order of examples and the dropout.")
    checkpoint_every_s: float = Field(
        60.0, gt=0, description="Seconds between checkpoints, where a checkpoint file is given."
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between checkpoints, in place of seconds."
    )
