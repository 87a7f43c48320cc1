"""measure: a light file and its parent's → accuracy, latency, memory and size, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.components.family import DataConfig, examples
from lwplugin.components.step import Step
from pydantic import Field

from lwplugin.measure.config import MeasureConfig, MeasureOptions
from lwplugin.progress import Progress


class Config(DataConfig):
    """The conditions of the target, and how it is measured."""

    device: str = Field("cpu", description="cpu, cuda, or the name of a device in the inventory")
    threads: int = Field(1, ge=1, description="threads of the runtime")
    batch: int = Field(1, ge=1, description="examples per inference")
    options: MeasureOptions = Field(MeasureOptions(), description="the recipe's measure block")


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.data import load as load_data
    from lwplugin.export import load_exported
    from lwplugin.measure import Comparison, measure
    from lwplugin.model import load

    comparison = measure(
        load_exported(inputs["candidate"] / "export"),
        load_data(config.data, config.task),
        baseline=load_exported(inputs["baseline"] / "export"),
        reference=load(inputs["light"] / "bundle"),
        baseline_reference=load(inputs["parent"] / "bundle"),
        config=MeasureConfig(
            device=config.device,
            threads=config.threads,
            batch=config.batch,
            **config.options.model_dump(exclude_unset=True),
        ),
        progress=progress,
    )
    assert isinstance(comparison, Comparison)  # a baseline was given
    comparison.save(output)


def _examples_and_machine(config: Config) -> dict[str, Any]:
    # A latency belongs to the machine it was taken on: another machine measures anew.
    from lwplugin.measure.inventory import LOCAL, device_named
    from lwplugin.measure.machine import facts

    if config.device not in LOCAL:
        return {**examples(config), "device": device_named(config.device).capabilities()}
    machine = facts()
    return {**examples(config), "machine": [machine[name] for name in ("cpu", "arch", "cores", "isa")]}


def _quiet(path: Path) -> bool:
    """A noisy measurement is kept for the report of its run, and taken anew by the next."""
    return not json.loads((path / "comparison.json").read_text(encoding="utf-8"))["noisy"]


STEP = Step(
    name="measure",
    config=Config,
    inputs=("candidate", "baseline", "light", "parent"),
    run=run,
    summary="Measure candidate and parent interleaved, in the target's runtime, on this machine or a device.",
    writes={
        "comparison.json": "both measurements, the speed-up and how noisy the machine was",
        "scores.npz": "per example: scores, answers, agreement, slices",
    },
    packages=("onnxruntime",),
    context=_examples_and_machine,
    reusable=_quiet,
)
