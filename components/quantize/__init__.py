"""quantize: a bundle → a lighter bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.components.family import FamilyConfig, examples, run_family
from lwplugin.components.step import Step

from lwplugin.progress import Progress


def run(
    config: FamilyConfig, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.quantize import quantize

    run_family(quantize, config, inputs, output, scratch=scratch, progress=progress)


def _examples_and_kernels(config: FamilyConfig) -> dict[str, Any]:
    # `reduce_range: auto` asks this machine whether its int8 kernels saturate.
    from lwplugin.measure.machine import int8_saturates

    return {**examples(config), "int8_saturates": int8_saturates()}


STEP = Step(
    name="quantize",
    config=FamilyConfig,
    inputs=("bundle",),
    run=run,
    summary="Represent weights and activations in fewer bits.",
    writes={"bundle/": "the quantized light model, integers packed"},
    packages=("torch",),
    context=_examples_and_kernels,
    trains=True,
)
