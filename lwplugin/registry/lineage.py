"""Where a light version comes from: what its tags and its run say, and the way back up to its parents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lwplugin.errors import RegistryError
from lwplugin.registry.versions import Resolved, resolve

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "lwplugin."
DIGEST = "lwplugin.digest"
PARENT_VERSION = "lwplugin.parent_version"
PARENT_DIGEST = "lwplugin.parent_digest"
RECIPE_DIGEST = "lwplugin.recipe_digest"
TARGET = "lwplugin.target"
VERDICT = "lwplugin.verdict"
VERDICT_DIGEST = "lwplugin.verdict_digest"
OVERRIDE = "lwplugin.override"
OVERRIDDEN = "lwplugin.overridden"
UPLOADED = "lwplugin.uploaded"
SUPERSEDED_BY = "lwplugin.superseded_by"

_DATASET_DIGEST_LENGTH = 36
_PARAM_LENGTH = 500


def ancestors(
    uri: str, *, tracking_uri: str | None = None, registry_uri: str | None = None
) -> tuple[Resolved, ...]:
    """The version itself, the one it was made from, and so on up to one that lwplugin did not make.

    Raises RegistryError where a version is unknown or the chain runs in a circle.
    """
    found: list[Resolved] = []
    following: str | None = uri
    while following is not None:
        version = resolve(following, tracking_uri=tracking_uri, registry_uri=registry_uri)
        if version.uri in {earlier.uri for earlier in found}:
            raise RegistryError(
                f"The lineage of '{uri}' runs in a circle",
                got=f"{version.uri} twice",
                do=f"mend the tag '{PARENT_VERSION}' of one of {[earlier.uri for earlier in found]}",
            )
        found.append(version)
        following = version.tags.get(PARENT_VERSION)
    return tuple(found)


def record_inputs(client: MlflowClient, run_id: str, parent: Resolved, data_digest: str | None) -> None:
    """The run's inputs in MLflow's own terms: the parent's logged model, and the data by its digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

    models = [LoggedModelInput(model_id=parent.model_id)] if parent.model_id else []
    datasets = []
    if data_digest is not None:
        dataset = Dataset(
            name="recipe data",
            digest=data_digest[:_DATASET_DIGEST_LENGTH],
            source_type="lwplugin",
            source=json.dumps({"fingerprint": data_digest}),
        )
        datasets = [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])]
    if models or datasets:
        client.log_inputs(run_id, datasets=datasets, models=models)


def flat_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as MLflow params: {"compress": [{"macs": 0.5}]} → {"compress.0.macs": "0.5"}."""
    flat: dict[str, str] = {}

    def visit(key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                visit(f"{key}.{name}" if key else str(name), inner)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                visit(f"{key}.{index}", inner)
        else:
            flat[re.sub(r"[^\w.\- /]", "_", key)] = str(value)[:_PARAM_LENGTH]

    visit("", params)
    return flat
