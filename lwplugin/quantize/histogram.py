"""A histogram of a stream of unknown range in fixed memory."""

from __future__ import annotations

import math

import torch

from lwplugin.errors import DataError

_CHUNK = 1 << 20


def finite_bounds(x: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest value of a tensor that is not empty; DataError where one is NaN or infinite."""
    lo, hi = (float(v) for v in torch.aminmax(x.detach()))
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise DataError(
            "Calibration met values that are not finite",
            got=f"[{lo}, {hi}]",
            do="check the calibration examples and the float model for NaN and infinities",
        )
    return lo, hi


class StreamingHistogram:
    """Counts of values in ``bins`` bins of equal width; the width doubles when a value falls outside.

    Bin ``i`` holds [(first + i) * width, (first + i + 1) * width). Edges stay multiples of the width, so
    zero is always an edge and doubling merges whole bins: nothing is smeared and the result does not depend
    on how the stream is cut into batches, except for the width the first batch starts with.
    """

    def __init__(self, bins: int = 4096) -> None:
        self.bins = bins
        self.width = 0.0
        self.first = 0
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.lo = math.inf
        self.hi = -math.inf

    @property
    def total(self) -> float:
        """How many values have been counted."""
        return float(self.counts.sum())

    @property
    def centers(self) -> torch.Tensor:
        """Centers of the bins, float64 [bins]."""
        return (torch.arange(self.bins, dtype=torch.float64) + self.first + 0.5) * self.width

    def update(self, x: torch.Tensor) -> None:
        """Count every value of ``x``; extra memory is a few MB whatever its size."""
        flat = x.detach().reshape(-1)
        if not flat.numel():
            return
        lo, hi = finite_bounds(flat)
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)
        self._cover(lo, hi)
        for part in torch.split(flat, _CHUNK):
            # In place and in 32 bits: whole numbers this small are exact, and it takes half the time.
            index = (part / self.width).floor_().sub_(self.first).clamp_(0, self.bins - 1).to(torch.int32)
            self.counts += torch.bincount(index, minlength=self.bins).to("cpu", torch.float64)

    def _cover(self, lo: float, hi: float) -> None:
        if self.width == 0.0:
            span = max(hi, 0.0) - min(lo, 0.0)
            self.width = max(span, 1e-12) * 1.5 / self.bins
            self.first = math.floor(min(lo, 0.0) / self.width)
        while True:
            low = min(math.floor(lo / self.width), self.first)
            high = math.floor(hi / self.width)
            if high < low + self.bins and self._move(low):
                return
            self._double()

    def _move(self, low: int) -> bool:
        """Shift the window down to start at ``low`` if what is counted still fits."""
        shift = self.first - low
        if shift <= 0:
            return True
        if bool((self.counts[self.bins - shift :] > 0).any()) if shift < self.bins else self.total > 0:
            return False
        if shift < self.bins:
            self.counts = torch.cat(
                (torch.zeros(shift, dtype=torch.float64), self.counts[: self.bins - shift])
            )
        self.first = low
        return True

    def _double(self) -> None:
        first = self.first // 2
        lead = self.first - 2 * first
        padded = torch.zeros(self.bins + 2, dtype=torch.float64)
        padded[lead : lead + self.bins] = self.counts
        merged = padded.view(-1, 2).sum(1)
        self.counts = torch.cat((merged, torch.zeros(self.bins - merged.numel(), dtype=torch.float64)))
        self.first = first
        self.width *= 2
