"""From what a person writes (`models:/net@champion`) to one concrete, immutable model version."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.errors import RegistryError, did_you_mean
from lwplugin.registry.connect import address, connected
from lwplugin.secret import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))?/?$")
_LOGGED_MODEL = re.compile(r"^m-[0-9a-f]{32}$")
_STAGES = ("Production", "Staging", "Archived", "None")
_LISTED = 200
_DIGITS = 9
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter: no such name can be


class Resolved(BaseModel):
    """A registered model version. Holds no address and no credential, so it may be stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    uri: str = Field(description="models:/name/3")
    alias: str | None = Field(None, description="the alias it was asked by")
    source: str = Field(description="where MLflow says the version comes from")
    model_id: str | None = Field(None, description="the logged model at the end of the chain of copies")
    run_id: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def unknown(cls, uri: str) -> Resolved:
        """Stands for the version ``uri`` will mean when somebody looks it up."""
        return cls(name=str(_parse(uri)["name"]), version="", uri=uri, source="")

    @property
    def pinned(self) -> Resolved:
        """Without its alias and tags: they move, and do not change the bytes of a version."""
        return self.model_copy(update={"alias": None, "tags": {}})


def resolve(uri: str, *, tracking_uri: str | None = None, registry_uri: str | None = None) -> Resolved:
    """Looks the version up and follows copies to the logged model; downloads nothing.

    Raises RegistryError for an unknown model, alias or version, naming the known ones.
    """
    match = _parse(uri)
    with connected(tracking_uri, registry_uri) as client:
        return resolve_with(client, str(match["name"]), alias=match["alias"], version=match["version"])


def resolve_with(
    client: MlflowClient, name: str, *, alias: str | None = None, version: str | None = None
) -> Resolved:
    model = registered_model(client, name)
    if alias is not None:
        number = alias_target(model, alias)
    elif version is None:
        raise RegistryError(
            f"'models:/{name}' says no version",
            got=f"versions {', '.join(_versions(client, name))}; aliases {', '.join(_aliases(model)) or 'none'}",
            do=f"write models:/{name}/<version> or models:/{name}@<alias>",
        )
    elif version.isdigit():
        number = version
    else:
        number = _by_stage(client, name, version)
    found = _version(client, name, number)
    source = str(found.source or "")
    return Resolved(
        name=name,
        version=str(found.version),
        uri=f"models:/{name}/{found.version}",
        alias=alias,
        source=redact(source),
        model_id=found.model_id or _logged_model(client, source),
        run_id=found.run_id or None,
        tags=dict(found.tags),
    )


def model_there(client: MlflowClient, name: str) -> RegisteredModel | None:
    """None where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        return None


def registered_model(client: MlflowClient, name: str) -> RegisteredModel:
    """Raises RegistryError naming the nearest known model."""
    found = model_there(client, name)
    if found is not None:
        return found
    known = [model.name for model in client.search_registered_models(max_results=_LISTED)]
    raise RegistryError(
        f"The registry at {address(client)} has no model '{name}'",
        got=None if known else "an empty registry",
        do=f"{did_you_mean(name, known)}; " * bool(known)
        + "check the name, or MLFLOW_TRACKING_URI if this is the wrong registry",
    )


def alias_target(model: RegisteredModel, alias: str) -> str:
    """The version an alias points to. Raises RegistryError naming the known aliases."""
    targets: dict[str, str] = dict(model.aliases)
    if alias not in targets:
        raise RegistryError(
            f"Model '{model.name}' has no alias '{alias}'",
            got=None if targets else "a model without aliases",
            do=f"{did_you_mean(alias, targets)}; " * bool(targets)
            + f"set it, or name a version: models:/{model.name}/1",
        )
    return str(targets[alias])


def _parse(uri: str) -> dict[str, str | None]:
    if uri.startswith("runs:/"):
        raise RegistryError(
            "A run's artifact is not a registered version",
            got=uri,
            do=f"register it (mlflow.register_model('{uri}', '<name>')) and use models:/<name>/<version>",
        )
    match = _URI.match(uri)
    if match is None:
        raise RegistryError(
            "Not a model of a registry",
            got=redact(uri),
            do="write models:/<name>@<alias> or models:/<name>/<version>",
        )
    if _LOGGED_MODEL.match(match["name"]) and match["alias"] is None and match["version"] is None:
        raise RegistryError(
            "A logged model is not a registered version",
            got=uri,
            do=f"register it (mlflow.register_model('{uri}', '<name>')) and use models:/<name>/<version>",
        )
    return match.groupdict()


def version_there(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    """None where there is no such version."""
    from mlflow.exceptions import MlflowException

    if len(number) > _DIGITS:  # more than the registry's database can compare with
        return None
    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        return None


def _version(client: MlflowClient, name: str, number: str) -> ModelVersion:
    found = version_there(client, name, number)
    if found is None:
        raise RegistryError(
            f"Model '{name}' has no version {number}",
            got=f"versions {', '.join(_versions(client, name))}",
            do="name one of these, or an alias",
        )
    if found.status != "READY":
        raise RegistryError(
            f"Version {number} of model '{name}' is not ready",
            got=f"status {found.status} {found.status_message or ''}".rstrip(),
            do="wait for the upload to end, or name another version",
        )
    return found


def _by_stage(client: MlflowClient, name: str, stage: str) -> str:
    if stage.lower() == "latest":
        return _newest(client, name)
    known = {known.lower(): known for known in _STAGES}
    if stage.lower() not in known:
        raise RegistryError(
            f"'{stage}' is neither a version nor a stage of model '{name}'",
            do=f"{did_you_mean(stage, [*_STAGES, 'latest'])}; write models:/{name}/<number>; "
            f"an alias is written models:/{name}@{stage}",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = client.get_latest_versions(name, [known[stage.lower()]])
    if not found:
        raise RegistryError(
            f"Model '{name}' has no version in stage '{stage}'",
            got=f"versions {_versions(client, name)}",
            do=f"use an alias instead: models:/{name}@<alias> (MLflow has deprecated stages)",
        )
    return str(max(int(version.version) for version in found))


def _newest(client: MlflowClient, name: str) -> str:
    found = client.search_model_versions(
        f"name={quoted(name)}", max_results=1, order_by=["version_number DESC"]
    )
    if not found:
        raise RegistryError(f"Model '{name}' has no version yet", do="register one")
    return str(found[0].version)


def _versions(client: MlflowClient, name: str) -> list[str]:
    """At most 200, for a message."""
    found = client.search_model_versions(f"name={quoted(name)}", max_results=_LISTED)
    return [str(number) for number in sorted(int(version.version) for version in found)]


def quoted(text: str) -> str:
    """A string for MLflow's filter language, which knows no escapes. Raises RegistryError where it cannot be said."""
    if "'" in text and '"' in text:
        raise RegistryError(
            "MLflow cannot search for a name with both kinds of quotes", got=text, do="rename the model"
        )
    return f'"{text}"' if "'" in text else f"'{text}'"


def _aliases(model: RegisteredModel) -> list[str]:
    return sorted(model.aliases)


def _logged_model(client: MlflowClient, source: str) -> str | None:
    seen = set()
    while source.startswith("models:/") and source not in seen:
        seen.add(source)
        name, _, version = source.removeprefix("models:/").partition("/")
        if _LOGGED_MODEL.match(name):
            return name
        if not version.isdigit():
            return None
        source = str(client.get_model_version(name, version).source or "")
    return None
