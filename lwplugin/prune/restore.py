"""What is done to cut copies of a parent so that they answer as it did: closed-form repair, or recalibrated norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from lwplugin.data.batch import count
from lwplugin.moments.examples import repair_inputs
from lwplugin.moments.gaps import half_way_sums
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repair, repairable
from lwplugin.moments.responses import Response, parent_responses
from lwplugin.progress import Progress
from lwplugin.prune.base import PruneConfig

if TYPE_CHECKING:
    from lwplugin.data import Data


class Restore:
    """Repairs cut copies of one parent, then recalibrates their norms, as the options ask.

    What the parent answers is asked once for all copies that are repaired on as many examples.
    """

    def __init__(self, parent: nn.Module, data: Data, config: PruneConfig, progress: Progress) -> None:
        self._parent, self._data, self._config, self._progress = parent, data, config, progress
        self._answered: tuple[int, dict[str, Response]] = 0, {}

    def __call__(
        self, module: nn.Module, kept: dict[str, Tensor], *, across: bool = False
    ) -> list[LayerRepair]:
        """In place. ``kept``: for layers that lost outputs, the indices of those that remain; ``across``: as ``repair``
        has it."""
        config, done = self._config, list[LayerRepair]()
        if config.repair:
            inputs = repair_inputs(module, self._data, config.repair_examples)
            examples = count(inputs)
            if self._answered[0] != examples:
                self._progress("parent responses", 0, None)
                names = repairable(self._parent)
                found = parent_responses(self._parent, inputs, names, seed=config.seed, sums=True)
                self._answered = examples, found
            done = repair(module, inputs, self._answered[1], kept, across=across, progress=self._progress)
        if config.recalibrate or (config.recalibrate is None and not config.repair):
            from lwplugin.training.recalibrate import recalibrate_batchnorm

            recalibrate_batchnorm(module, self._data.need("calibration"))
        return done

    def has_gaps(self, module: nn.Module) -> bool:
        """Whether ``across`` is of any consequence to a copy like those repaired last."""
        return bool(half_way_sums(self._answered[1], {name for name, _ in module.named_modules()}))
