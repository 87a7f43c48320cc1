"""export: a bundle → a file of a deployment format, compared with the torch model on real inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from lwplugin.components.family import DataConfig, examples
from lwplugin.components.step import Step
from pydantic import Field

from lwplugin.progress import Progress


class Config(DataConfig):
    """Which format."""

    format: str = Field("onnx", description="deployment format")
    batch: int | None = Field(
        None, ge=1, description="examples of one inference, for formats whose files run one number of them"
    )
    corruptions: tuple[str, ...] = Field(
        (),
        description="corrupted copies that will be measured later: refused before anything is compressed where these "
        "examples cannot have them",
    )
    needs_labels: bool = Field(
        False,
        description="a metric will be bounded later: refused before anything is compressed where test or its labels "
        "are missing",
    )


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.data import load as load_data
    from lwplugin.data.corruptions import need_possible
    from lwplugin.export import export
    from lwplugin.model import cost, load

    light = load(inputs["bundle"] / "bundle")
    data = load_data(config.data, config.task)
    if config.needs_labels:
        data.need_labels("test")
    if data.test is not None:
        need_possible(data.test, config.corruptions)
    options = {} if config.batch is None else {"batch": config.batch}
    export(light, data, format=config.format, path=output / "export", progress=progress, **options)
    price = asdict(cost(light.module, data.example(1)))
    (output / "cost.json").write_text(json.dumps(price, indent=1) + "\n", encoding="utf-8")


STEP = Step(
    name="export",
    config=Config,
    inputs=("bundle",),
    run=run,
    summary="Write a bundle in a deployment format, with its parity on real inputs and its cost.",
    writes={
        "export/": "the file and export.json",
        "cost.json": "params, MACs and bytes, in total and by layer",
    },
    packages=("torch", "onnx", "onnxscript", "onnxruntime"),
    context=examples,
)
