"""`lwplugin export-serving`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lwplugin.cli.output import json_option, only_json, progress_on, write_json

SERVERS = ("triton", "kserve", "kserve-mlflow")
_HELP = """Write what a model server needs for SOURCE: models:/name/3, models:/name@alias, or an export's directory.

\b
triton         a model repository at --output
kserve         the repository, and inference_service.yaml for it
kserve-mlflow  inference_service.yaml alone, for MLflow's own server
"""


@click.command("export-serving", help=_HELP)
@click.argument("source")
@click.option("--for", "server", type=click.Choice(SERVERS), default="triton", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--name", help="Model's name at the server; default: the registered model's.")
@click.option("--max-batch", type=click.IntRange(1), default=64, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Of one inference; default: as registered.")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True)
@click.option("--queue-delay-us", type=click.IntRange(0), default=0, show_default=True,
              help="Longest wait for others to share a batch.")  # fmt: skip
@click.option("--gpu", is_flag=True, help="Run on a GPU.")
@click.option("--storage-uri", help="Where KServe fetches it from; kserve-mlflow: default, the registry's.")
@click.option("--namespace", help="Kubernetes namespace.")
@click.option("--memory", default="2Gi", show_default=True, help="Of the pod.")
@click.option("--image", help="Image of the server; default: KServe's own.")
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def export_serving_command(source: str, server: str, output: Path, as_json: bool, **given: Any) -> int:
    with only_json(as_json) as out:
        from lwplugin.deploy import TritonOptions, deployable, write_repository
        from lwplugin.deploy.kserve import inference_service

        progress = progress_on(sys.stderr)
        written = []
        try:
            with deployable(source, tracking_uri=given["tracking_uri"], progress=progress) as found:
                name = given["name"] or found.name
                threads = given["threads"] or found.threads or 1
                uri = given["storage_uri"] or (found.location if server == "kserve-mlflow" else None)
                if server != "triton" and uri is None:
                    raise click.UsageError("KServe needs --storage-uri: where it will fetch the model from.")
                if server != "triton":  # first, for a location it refuses
                    manifest = inference_service(
                        name,
                        str(uri),
                        server="mlflow" if server == "kserve-mlflow" else "triton",
                        threads=threads * given["instances"],
                        memory=given["memory"],
                        gpu=given["gpu"],
                        namespace=given["namespace"],
                        image=given["image"],
                        digest=found.exported.digest,
                    )
                if server != "kserve-mlflow":
                    options = TritonOptions(
                        max_batch=given["max_batch"],
                        threads=threads,
                        instances=given["instances"],
                        queue_delay_us=given["queue_delay_us"],
                        gpu=given["gpu"],
                    )
                    written.append(write_repository(found, output, options, name=name))
                if server != "triton":
                    written.append(_write(manifest, output))
        finally:
            progress.close()
        if as_json:
            write_json({"written": [str(path) for path in written]}, out)
        else:
            for path in written:
                click.echo(path)
    return 0


def _write(manifest: dict[str, Any], output: Path) -> Path:
    import yaml

    output.mkdir(parents=True, exist_ok=True)
    file = output / "inference_service.yaml"
    file.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return file
