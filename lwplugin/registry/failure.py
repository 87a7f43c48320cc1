"""A run of an engine that failed, kept where people look for what happened to a model."""

from __future__ import annotations

from lwplugin.registry import lineage
from lwplugin.registry.connect import connected
from lwplugin.registry.upload import experiment_named
from lwplugin.secret import redact

ERROR = "lwplugin.error"
ENGINE = "lwplugin.engine"
ENGINE_RUN = "lwplugin.engine_run"
_LENGTH = 5000


def record_failure(
    *,
    model: str,
    error: str,
    engine: str,
    engine_run: str,
    recipe_digest: str = "",
    experiment: str = "lwplugin",
    tracking_uri: str | None = None,
) -> str:
    """A FAILED run with the error and where it happened as tags; its id.

    One run per ``engine_run``, however often the engine says so. Credentials in ``error`` are cut out.
    Raises RegistryError.
    """
    with connected(tracking_uri) as client:
        home = experiment_named(client, experiment)
        quoted = engine_run.replace("'", "")
        known = client.search_runs([home], f"tags.`{ENGINE_RUN}` = '{quoted}'", max_results=1)
        if known:
            return str(known[0].info.run_id)
        tags = {
            ERROR: redact(error)[:_LENGTH],
            ENGINE: engine,
            ENGINE_RUN: quoted,
            lineage.PARENT_VERSION: model,
            lineage.RECIPE_DIGEST: recipe_digest,
            "mlflow.source.name": "lwplugin",
        }
        run = client.create_run(home, run_name=f"{model} failed on {engine}", tags=tags)
        client.set_terminated(run.info.run_id, status="FAILED")
        return str(run.info.run_id)
