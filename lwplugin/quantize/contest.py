"""Candidates side by side: whoever answers most like the float model on calibration examples is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from lwplugin.quantize.base import Fidelity, fidelity

if TYPE_CHECKING:
    from lwplugin.data import Task
    from lwplugin.data.batch import Batch


class Contest:
    """The best candidate so far and how close each came. ``batches`` gives the judging examples anew each time."""

    def __init__(self, reference: nn.Module, batches: Callable[[], Iterable[Batch]], task: Task) -> None:
        self._reference = reference
        self._batches = batches
        self._task = task
        self.found: dict[str, Fidelity] = {}
        self.picked = ""
        self._best: nn.Module | None = None

    @property
    def best(self) -> nn.Module:
        """The module that is ahead."""
        assert self._best is not None
        return self._best

    def enter(
        self, candidates: Mapping[str, nn.Module], *, known: Mapping[str, Fidelity] | None = None
    ) -> None:
        """Judge candidates in one pass; a later one must be better than the best so far to take its place.

        What is ``known`` of a candidate from before is not worked out again.
        """
        new = {name: module for name, module in candidates.items() if name not in self.found}
        found = {name: known[name] for name in new if name in known} if known else {}
        unknown = {name: module for name, module in new.items() if name not in found}
        if unknown:
            found |= fidelity(self._reference, unknown, self._batches(), self._task)
        for name, module in new.items():
            self.found[name] = found[name]
            if not self.picked or found[name].better_than(self.found[self.picked]):
                self.picked, self._best = name, module

    def account(self) -> dict[str, dict[str, float]]:
        """All candidates, for the history."""
        return {
            name: {"agreement": f.agreement, "output_sqnr_db": f.output_sqnr_db}
            for name, f in self.found.items()
        }
