"""What a training did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """``losses`` has one mean loss per optimizer step; ``seconds`` adds up over resumed runs."""

    steps: int
    epochs: int
    losses: list[float]
    best_score: float | None
    """Best score on calibration; None where it was not looked at."""
    seconds: float
    history: list[dict[str, Any]] = field(default_factory=list)
    """Per epoch: epoch, step, loss, lr, and score where calibration was looked at."""
    stopped_early: bool = False

    def details(self) -> dict[str, Any]:
        """What a bundle's history keeps of it (no per-step losses)."""
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "final_loss": self.losses[-1] if self.losses else None,
            "best_score": self.best_score,
            "stopped_early": self.stopped_early,
            "epochs_detail": self.history,
        }
