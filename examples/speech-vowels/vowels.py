"""Who speaks: nine speakers' vowels as frames of twelve cepstral coefficients (Kudo 1999), and a net that tells them.

pip install --no-deps aeon      # the recordings lie in this package: 270 to train on, 370 to test
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FRAMES = 29


def speakers() -> dict[str, Any]:
    """Frames float32 [n, 29, 12], zeros after the end, and the speaker 0 to 8; the official split."""
    spec = find_spec("aeon")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("the recordings are missing: pip install --no-deps aeon")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data" / "JapaneseVowels"
    return {part: _read(folder / f"JapaneseVowels_{part.upper()}.ts") for part in ("train", "test")}


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    lines = file.read_text(encoding="utf-8").split("@data\n")[1].splitlines()
    frames, labels = np.zeros((len(lines), FRAMES, 12), np.float32), np.zeros(len(lines), np.int64)
    for number, line in enumerate(lines):
        *coefficients, label = line.split(":")
        values = np.array([one.split(",") for one in coefficients], np.float32).T
        frames[number, : len(values)], labels[number] = values, int(label) - 1
    return frames, labels


class SpeakerNet(nn.Module):
    """Frames [n, 29, 12] → logits [n, 9]: two bidirectional LSTM layers; 547 thousand parameters."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(12)
        self.cells = nn.LSTM(12, width, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(2 * width, 9)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Logits [n, 9]."""
        seen, _ = self.cells(self.norm(frames.transpose(1, 2)).transpose(1, 2))
        logits: torch.Tensor = self.head(seen.mean(1))
        return logits
