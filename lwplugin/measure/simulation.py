"""An int8 file beside its float simulation, so that a kernel's error is told from the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwplugin.measure.feeds import feeds_of, run_together
from lwplugin.measure.machine import int8_saturates
from lwplugin.measure.parity import compare
from lwplugin.measure.result import Machine
from lwplugin.measure.score import Side
from lwplugin.measure.wire import Array

MAX_GAP = 0.005
MIN_SQNR_DB = 30.0
_BATCH = 64
# What an integer file of each format says where it rounds.
_ROUNDING = {"onnx": "DequantizeLinear", "openvino": "FakeQuantize"}


@dataclass(frozen=True)
class Simulation:
    """Metrics of the graph as written, how much worse the kernels are, and what to do about it."""

    metrics: dict[str, float]
    gap: dict[str, float]
    sqnr_db: float | None
    warnings: list[str]


def has_simulation(side: Side) -> bool:
    """Only a file that says where it rounds (Q/DQ nodes) can be run as written in float."""
    rounding = _ROUNDING.get(side.subject.format)
    return rounding is not None and side.subject.mentions(rounding)


def simulate(
    side: Side, data: Any, kernels: Array, machine: Machine, examples: int, load: dict[str, Any]
) -> Simulation | None:
    """Run the first test examples with graph optimization off; None for a file that has no simulation.

    ``kernels`` [n, …] are the real outputs on the test split's first examples; ``load`` the worker's load
    request. The side's worker holds the unoptimized graph afterwards.
    """
    import torch

    if not has_simulation(side) or not len(kernels):
        return None
    side.worker.ask("load", **{**load, "optimize": False, "cpus": None})
    outputs, targets = [], []
    for batch in data.test.head(min(examples, len(kernels))).batches(_BATCH):
        feeds = feeds_of(batch.inputs, side.subject)
        outputs += run_together([(side.worker, side.subject, feeds, side.score_batch)])
        if batch.targets is not None and data.task.needs_targets:
            targets.append(batch.targets)
    simulated = np.concatenate(outputs)
    parity = compare(kernels[: len(simulated)], simulated, what="simulation")
    metrics: dict[str, float] = {}
    gap: dict[str, float] = {}
    if targets:
        truth = torch.cat(targets)
        metrics = dict(data.task.metrics(torch.from_numpy(simulated), truth))
        real = data.task.metrics(torch.from_numpy(np.array(kernels[: len(simulated)])), truth)
        gap = {name: metrics[name] - real[name] for name in metrics}
    return Simulation(metrics, gap, parity.sqnr_db, _warnings(data.task, gap, parity.sqnr_db, machine))


def _warnings(task: Any, gap: dict[str, float], sqnr_db: float | None, machine: Machine) -> list[str]:
    lost = gap.get(task.metric, 0.0)
    far = sqnr_db is not None and sqnr_db < MIN_SQNR_DB
    worse = task.paired_test == "proportion" and lost > MAX_GAP
    if not (far or worse):
        return []
    seen = f"{task.metric} {lost:+.4f} better in simulation" if gap else "no labels to score"
    if sqnr_db is not None:
        seen += f", kernels {sqnr_db:.1f} dB from it"
    if int8_saturates(machine.isa):
        cause = (
            f"this CPU ({machine.isa}, no VNNI) adds two 8-bit products in 16 bits, which overflow: quantize "
            "with reduce_range=True (7-bit weights), or measure on the CPU it is meant for"
        )
    else:
        cause = (
            f"this CPU ({machine.isa}) does not overflow, so look for a layer that the runtime fuses or "
            "computes differently, and leave it in float"
        )
    return [f"The int8 kernels differ from the float simulation ({seen}). {cause}."]
