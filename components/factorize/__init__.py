"""factorize: a bundle → a lighter bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lwplugin.components.family import FamilyConfig, examples, run_family
from lwplugin.components.step import Step

from lwplugin.progress import Progress


def run(
    config: FamilyConfig, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.factorize import factorize

    run_family(factorize, config, inputs, output, scratch=scratch, progress=progress)


STEP = Step(
    name="factorize",
    config=FamilyConfig,
    inputs=("bundle",),
    run=run,
    summary="Write layers as products of smaller ones: low rank.",
    writes={"bundle/": "the factorized light model"},
    packages=("torch",),
    context=examples,
    trains=True,
)
