"""The run of a registration: inputs, params, metrics, artifacts, logged model; found again after a crash."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.registry import flavor, lineage, mlmodel, signing
from lwplugin.registry.bom import FILE_NAME, bill_of_materials
from lwplugin.registry.conform import check_served, signature_from_file, stand_in, takes_text
from lwplugin.registry.versions import Resolved
from lwplugin.run_context import context_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

    from lwplugin.gate.verdict import Verdict

_PARAMS_A_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The content of one version."""

    parent: Resolved
    bundle: Path
    exported: Path
    report: Path | None
    verdict: Verdict
    threads: int


def find_upload(
    client: MlflowClient, experiment: str, digest: str, verdict_digest: str
) -> tuple[str, str] | None:
    """(run id, model id) of an upload of this digest with this verdict that was finished and never became a version."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    wanted = f"tags.`{lineage.DIGEST}`='{digest}' and tags.`{lineage.VERDICT_DIGEST}`='{verdict_digest}'"
    for run in client.search_runs([found.experiment_id], wanted, order_by=["attributes.start_time ASC"]):
        model_id = run.data.tags.get(lineage.UPLOADED)
        if model_id and _is_whole(client, model_id):
            return run.info.run_id, model_id
    return None


def _is_whole(client: MlflowClient, model_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_logged_model(model_id).status == "READY")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted since
            raise
        return False


def close_orphans(client: MlflowClient, experiment: str, digest: str, version_uri: str) -> None:
    """Ends the runs that crashed on the way to this version; MLflow would show them as running for ever."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    wanted = f"tags.`{lineage.DIGEST}`='{digest}' and attributes.status='RUNNING'"
    for run in client.search_runs([found.experiment_id], wanted):
        client.set_tag(run.info.run_id, lineage.SUPERSEDED_BY, version_uri)
        client.set_terminated(run.info.run_id, "KILLED")


def upload(
    client: MlflowClient,
    content: Upload,
    *,
    experiment: str,
    name: str,
    model_name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    data_digest: str | None,
) -> tuple[str, str]:
    """(run id, model id). The saved model is checked before anything is written to MLflow.

    The client's own calls instead of `mlflow.start_run`: that one tags the run with the git remote, which may
    hold a token, and leaves an active run to whoever calls.
    """
    from mlflow.entities import LoggedModelOutput, Metric, Param

    with tempfile.TemporaryDirectory(prefix="lwplugin-register-") as scratch:
        directory = Path(scratch, "model")
        model = _save(content, directory)
        experiment_id = experiment_named(client, experiment)
        run = client.create_run(
            experiment_id,
            run_name=f"{name} for {tags[lineage.TARGET]}",
            tags={**context_tags(), **tags, "mlflow.source.name": "lwplugin"},
        )
        run_id = run.info.run_id
        try:
            lineage.record_inputs(client, run_id, content.parent, data_digest)
            logged = client.create_logged_model(
                experiment_id, name=model_name, source_run_id=run_id, tags=dict(tags), params=dict(params)
            )
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
            entries = [Param(key, value) for key, value in params.items()]
            for start in range(0, len(entries), _PARAMS_A_BATCH):
                client.log_batch(run_id, params=entries[start : start + _PARAMS_A_BATCH])
            now = int(time.time() * 1000)
            client.log_batch(
                run_id,
                metrics=[
                    Metric(key, value, now, 0, model_id=logged.model_id, run_id=run_id)
                    for key, value in metrics.items()
                ],
            )
            if content.report is not None:
                client.log_artifacts(run_id, str(content.report), artifact_path="report")
            model.run_id, model.model_id, model.model_uuid = run_id, logged.model_id, logged.model_id
            model.artifact_path = logged.artifact_location
            model.save(str(directory / "MLmodel"))
            bill = bill_of_materials(
                directory,
                name=name,
                parent=content.parent,
                tags=tags,
                metrics=metrics,
                verdict=content.verdict,
                data_digest=data_digest,
                signature=mlmodel.signature_json(mlmodel.read(directory)),
                version=installed_version("lwplugin"),
            )
            for file, text in (
                ("verdict.json", content.verdict.model_dump_json(indent=2)),
                (FILE_NAME, json.dumps(bill, indent=2)),
            ):
                client.log_text(run_id, text, file)
            (directory / FILE_NAME).write_text(json.dumps(bill, indent=2), encoding="utf-8")
            signing.sign(directory)
            client.log_model_artifacts(logged.model_id, str(directory))
            client.finalize_logged_model(logged.model_id, "READY")
            client.set_tag(run_id, lineage.UPLOADED, logged.model_id)
            client.set_terminated(run_id, "FINISHED")
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
    return run_id, str(logged.model_id)


def _save(content: Upload, directory: Path) -> Model:
    """The MLflow model on disk, with the parent's signature and input example, proven to answer.

    A parent that takes text tokenizes first; the light version takes what its network takes, and says so in
    its own signature. The same holds for a parent without signature.
    """
    from mlflow.models import Model

    parent = Model.load(content.parent.uri)
    signature, example = parent.signature, None
    if signature is None or takes_text(signature):
        signature = signature_from_file(content.exported)
    elif parent.saved_input_example_info is not None:
        example = parent.load_input_example(content.parent.uri)
    model = Model()
    flavor.save_model(
        directory,
        exported=content.exported,
        bundle=content.bundle,
        report=content.report,
        verdict=content.verdict.model_dump(mode="json"),
        signature=signature,
        input_example=example,
        threads=content.threads,
        metadata=_metadata(parent.metadata, content.parent),
        mlflow_model=model,
    )
    question = stand_in(content.exported, signature) if example is None else example
    check_served(directory, content.exported, question)
    return model


def _metadata(inherited: dict[str, Any] | None, parent: Resolved) -> dict[str, Any]:
    return {**(inherited or {}), lineage.PARENT_VERSION: parent.uri}


def experiment_named(client: MlflowClient, name: str) -> str:
    """Its id; it is made where it is not there."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another process made it in between
        made = client.get_experiment_by_name(name)
        if made is None:
            raise
        return str(made.experiment_id)
