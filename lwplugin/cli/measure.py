"""`lwplugin measure`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwplugin.cli.output import human_bytes, json_option, only_json, progress_on, table, write_json
from lwplugin.errors import MeasureError

if TYPE_CHECKING:
    from lwplugin.measure import MeasureConfig, MeasureOptions

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
    "--set",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of a recipe's measure block, such as offline_batch=64; may be given again.",
)
@click.option("--profile", is_flag=True, help="Show where the time goes, layer by layer.")
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
    options: tuple[str, ...],
    profile: bool,
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
                config=_config(loaded.measure, threads, batch, device, options),
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
            document = result.model_dump(mode="json")
            click.echo(_shown(document))
            if profile:
                click.echo(f"\n{_profiled(document)}")
    return 0


def _config(
    recipe: MeasureOptions, threads: int, batch: int, device: str, options: tuple[str, ...]
) -> MeasureConfig:
    """The recipe's measure block, with the command line over it."""
    import yaml

    from lwplugin.measure.config import checked

    given: dict[str, Any] = recipe.model_dump(exclude_unset=True)
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"--set takes NAME=VALUE, got '{option}'.")
        given[name] = yaml.safe_load(value)
    return checked(None, {**given, "threads": threads, "batch": batch, "device": device})


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
        latency, cold, offline = side["latency"], side["cold_start"], side["throughput"]
        columns.append(
            {
                "": name,
                **{metric: f"{value:.4f}" for metric, value in side["metrics"].items()},
                "size": human_bytes(side["size_bytes"]),
                "p50": f"{latency['p50_ms']:.4g} ms",
                "p95": f"{latency['p95_ms']:.4g} ms",
                "peak memory": human_bytes(side["peak_memory_bytes"]),
                "load": f"{side['load_ms']:.4g} ms",
                **({"cold start": f"{cold['total_ms']:.4g} ms"} if cold else {}),
                **({"offline": f"{offline['examples_per_s']:.4g} /s"} if offline else {}),
            }
        )
    text = table([[label, *(column.get(label, "") for column in columns)] for label in columns[0]])
    if "speedup" in result:
        speed = result["speedup"]
        text += f"\nspeed-up {speed['estimate']:.3g}x (from {speed['low']} to {speed['high']})"
        text += f"\nnoisy: {result['noise_reason']}" if result["noisy"] else ""
    return text


def _profiled(result: dict[str, Any]) -> str:
    from lwplugin.measure.layer_times import layer_times

    rows = layer_times(result.get("baseline", {}).get("profile"), result.get("candidate", result)["profile"])
    if not rows:
        return "no profile: this runtime has no profiler, or profile_seconds is 0"
    cells = [
        [
            row.name,
            row.kind,
            *("-" if ms is None else f"{1e3 * ms:.1f} µs" for ms in (row.before_ms, row.after_ms)),
        ]
        for row in rows
    ]
    head = ["layer", "operators", "parent", "model" if "candidate" not in result else "candidate"]
    return table([head, *cells])
