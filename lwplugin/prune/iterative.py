"""Score, remove a little, repair and retrain, again and again to the target (Molchanov 2017, 1611.06440).

Between rounds the network adapts to what it lost, so later choices are made on weights that know of the earlier.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lwplugin.errors import MethodError
from lwplugin.model.bundle import copy_module
from lwplugin.model.graph import Graph, trace
from lwplugin.model.surgery import cut
from lwplugin.moments.layer_repair import LayerRepair
from lwplugin.moments.repair import repairable
from lwplugin.progress import Progress
from lwplugin.prune.base import Method, PruneConfig, Pruned
from lwplugin.prune.criterion import Criterion, importance_by
from lwplugin.prune.explain import explain
from lwplugin.prune.restore import Restore
from lwplugin.prune.resume import Rounds
from lwplugin.prune.select import Importance
from lwplugin.prune.units import choose, costs, graph_of, kept_outputs
from lwplugin.training.collapse import agreement_with
from lwplugin.training.finetune import finetune

if TYPE_CHECKING:
    from lwplugin.data import Data

Units = dict[int, list[int]]
"""Group of the parent's graph → its units that are gone."""

Matched = dict[int, tuple[int, np.ndarray]]
"""Group of the parent's graph → the same group of the smaller model's, and the former number of each of its units."""


class IterativeConfig(PruneConfig):
    """Options of ``iterative``; each round trains as ``finetune_*`` say, ``finetune_epochs`` come after the last."""

    criterion: Criterion = Field("taylor", description="The method that scores in every round.")
    rounds: int = Field(4, ge=1, description="Rounds to the target, each by the same factor.")
    epochs_per_round: int = Field(1, ge=0, description="Passes over the training split after each cut.")


def shrink(
    parent: nn.Module, data: Data, config: IterativeConfig, progress: Progress, checkpoint: Path | None
) -> Pruned:
    """Rounds of score, cut, repair, train; with ``checkpoint`` a killed run goes on, inside a training too.

    Raises:
        MethodError: after a round the answers agree with the parent's on less than ``collapse`` of the calibration
            examples; says how far it got.
    """
    graph = graph_of(parent, data, progress)
    saved = Rounds(checkpoint, parent, data, config)
    module = copy_module(parent)
    removed: Units = {}
    record: list[dict[str, float]] = []
    importance = [np.zeros(len(group)) for group in graph.groups]
    repairs: list[LayerRepair] = []
    state = saved.read()
    if state is not None:
        removed, record = state["removed"], state["record"]
        importance = [values.numpy() for values in state["importance"]]
        cut(module, graph, removed)
        module.load_state_dict(state["module"])
    for done in range(len(record), config.rounds):
        progress("rounds", done, config.rounds)
        current = trace(module, data.example(2))
        fresh = importance_by(config.criterion, module, current, data, config, progress)
        matched = correspondence(graph, removed, current)
        importance = _renewed(importance, matched, fresh)
        kept = config.budget.kept ** ((done + 1) / config.rounds)
        wanted = _wanted(graph, removed, importance, matched, config, kept)
        cut(module, current, _in_current(matched, wanted))
        removed = wanted
        remaining = kept_outputs(graph, removed, repairable(module))
        repairs = Restore(parent, data, config, progress)(module, remaining)
        path = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.round{done + 1}")
        finetune(
            module, parent, data, config.model_copy(update={"finetune_epochs": config.epochs_per_round}),
            seed=config.seed + done, checkpoint=path, progress=progress, label=f"train round {done + 1}",
        )  # fmt: skip
        record.append(_row(graph, parent, module, removed, data))
        _stop_if_collapsed(record, config)
        saved.save(
            removed=removed, record=record, importance=[torch.from_numpy(values) for values in importance],
            module=module.state_dict(),
        )  # fmt: skip
        if path is not None:
            path.unlink(missing_ok=True)
    progress("rounds", config.rounds, config.rounds)
    details = explain(parent, graph, removed, importance, repairs)
    return Pruned(module.eval(), costs(graph, removed), {**details, "rounds": record})


def correspondence(graph: Graph, removed: Units, current: Graph) -> Matched:
    """Which groups of the parent's graph the smaller model's graph still has, unit by unit.

    Groups are the same where they own the same dimensions of the same parameters.
    """
    places = {frozenset(group.owners): group for group in current.groups}
    mask = graph.alive(removed)
    found = {}
    for group in graph.groups:
        now = places.get(frozenset(group.owners))
        if now is None:
            continue
        name, axis = next(iter(group.owners))
        kept = graph.kept(name, mask)[axis]
        before = group.owners[name, axis] if kept is None else group.owners[name, axis][kept]
        former = np.zeros(len(now), dtype=np.int64)
        mine = before >= 0
        former[now.owners[name, axis][mine]] = before[mine]
        found[group.index] = (now.index, former)
    return found


def _renewed(importance: list[np.ndarray], matched: Matched, fresh: Importance) -> list[np.ndarray]:
    """New scores for units that are there; those that went keep the score they went with."""
    renewed = [values.copy() for values in importance]
    for index, (now, former) in matched.items():
        renewed[index][former] = fresh[now]
    return renewed


def _wanted(
    graph: Graph,
    removed: Units,
    importance: list[np.ndarray],
    matched: Matched,
    config: IterativeConfig,
    kept: float,
) -> Units:
    """What is gone after the next round: all that is gone now, and the least important of the rest."""
    ranks = [values.copy() for values in importance]
    for index, units in removed.items():
        ranks[index][units] = -1.0
        if index not in matched:  # at its last unit: nothing more goes
            ranks[index][ranks[index] >= 0] = np.finfo(np.float64).max / 1e6
    chosen = choose(graph, ranks, config.model_copy(update={config.budget.kind: kept}))
    more = {index: units for index, units in chosen.items() if index in matched}
    return {
        index: sorted({*removed.get(index, ()), *more.get(index, ())})
        for index in sorted(removed.keys() | more.keys())
    }


def _in_current(matched: Matched, wanted: Units) -> Units:
    """The units that go now, numbered as the smaller model numbers them."""
    going = {
        now: np.flatnonzero(np.isin(former, wanted.get(index, []))).tolist()
        for index, (now, former) in matched.items()
    }
    return {now: units for now, units in going.items() if units}


def _row(graph: Graph, parent: nn.Module, module: nn.Module, removed: Units, data: Data) -> dict[str, float]:
    agreement = agreement_with(parent, module, data)
    return {
        "macs_kept": graph.macs(removed) / graph.macs(),
        "params_kept": graph.params(removed) / graph.params(),
        **({} if agreement is None else {"agreement": agreement}),
    }


def _stop_if_collapsed(record: list[dict[str, float]], config: IterativeConfig) -> None:
    agreement = record[-1].get("agreement", 1.0)
    if agreement >= config.collapse:
        return
    kind = f"{config.budget.kind}_kept"
    before = f"{record[-2][kind]:.1%}" if len(record) > 1 else "all"
    raise MethodError(
        f"Pruning collapsed the model in round {len(record)} of {config.rounds}",
        got=f"at {record[-1][kind]:.1%} of the {config.budget.kind} its answers agree with the parent's on "
        f"{agreement:.1%} of the calibration examples",
        do=f"keep more (the round before held with {before}), give more rounds or epochs_per_round, "
        "or lower collapse",
    )


METHOD = Method(
    "iterative",
    IterativeConfig,
    None,
    "a little at a time, retrained between the cuts; resumes",
    shrink=shrink,
)
