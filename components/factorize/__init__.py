"""factorize: a bundle → a lighter bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lwplugin.components.family import FamilyConfig, examples
from lwplugin.components.step import Step

from lwplugin.progress import Progress


def run(
    config: FamilyConfig, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.data import load as load_data
    from lwplugin.factorize import factorize
    from lwplugin.model import load

    light = factorize(
        load(inputs["bundle"] / "bundle"),
        load_data(config.data, config.task),
        method=config.method,
        progress=progress,
        checkpoint=scratch / "finetune",
        **config.options,
    )
    light.save(output / "bundle")


STEP = Step(
    name="factorize",
    config=FamilyConfig,
    inputs=("bundle",),
    run=run,
    summary="Write layers as products of smaller ones: low rank.",
    writes={"bundle/": "the factorized light model"},
    packages=("torch",),
    context=examples,
)
