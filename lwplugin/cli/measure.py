"""`lwplugin measure`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lwplugin.cli.output import human_bytes, json_option, only_json, progress_on, table, write_json
from lwplugin.errors import MeasureError

directory = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command("measure", help="Measure the exported model in directory EXPORTED, here or on a device.")
@click.argument("exported", type=directory)
@click.option("--recipe", type=click.Path(path_type=Path), required=True, help="Names the data and the task.")
@click.option("--baseline", type=directory, help="The parent's exported model; measured interleaved.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--device", default="cpu", show_default=True, help="cpu, cuda, or a device of `lwplugin devices`."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Save the comparison in this directory."
)
@json_option
def measure_command(
    exported: Path,
    recipe: Path,
    baseline: Path | None,
    threads: int,
    batch: int,
    device: str,
    output: Path | None,
    as_json: bool,
) -> int:
    if output is not None and baseline is None:
        raise click.UsageError("--output saves a comparison: give --baseline too.")
    with only_json(as_json) as out:
        from lwplugin.data import load as load_data
        from lwplugin.measure import Comparison, measure
        from lwplugin.recipe import load_recipe

        loaded = load_recipe(recipe)
        progress = progress_on(sys.stderr)
        try:
            result = measure(
                _exported(exported),
                load_data(loaded.data, loaded.task),
                baseline=None if baseline is None else _exported(baseline),
                threads=threads,
                batch=batch,
                device=device,
                progress=progress,
            )
        finally:
            progress.close()
        if output is not None:
            assert isinstance(result, Comparison)  # --output asks for --baseline
            result.save(output)
        if as_json:
            write_json(result.model_dump(mode="json"), out)
        else:
            click.echo(_shown(result.model_dump(mode="json")))
    return 0


def _exported(place: Path) -> Any:
    """The directory of an export, or of an export step's result."""
    from lwplugin.export import load_exported

    for candidate in (place, place / "export"):
        if (candidate / "export.json").is_file():
            return load_exported(candidate)
    raise MeasureError(
        "There is no exported model", got=place, do="give the directory that holds export.json"
    )


def _shown(result: dict[str, Any]) -> str:
    sides = {"model": result}
    if "candidate" in result:
        sides = {"parent": result["baseline"], "candidate": result["candidate"]}
    columns = []
    for name, side in sides.items():
        latency = side["latency"]
        columns.append(
            {
                "": name,
                **{metric: f"{value:.4f}" for metric, value in side["metrics"].items()},
                "size": human_bytes(side["size_bytes"]),
                "p50": f"{latency['p50_ms']:.4g} ms",
                "p95": f"{latency['p95_ms']:.4g} ms",
                "peak memory": human_bytes(side["peak_memory_bytes"]),
                "load": f"{side['load_ms']:.4g} ms",
            }
        )
    text = table([[label, *(column.get(label, "") for column in columns)] for label in columns[0]])
    if "speedup" in result:
        speed = result["speedup"]
        text += f"\nspeed-up {speed['estimate']:.3g}x (from {speed['low']} to {speed['high']})"
        text += f"\nnoisy: {result['noise_reason']}" if result["noisy"] else ""
    return text
