"""Every version a registry holds, with its aliases and tags, in a few large reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lwplugin.errors import RegistryError
from lwplugin.registry import lineage
from lwplugin.registry.connect import connected
from lwplugin.registry.decisions import entry_texts
from lwplugin.registry.versions import model_there, quoted, registered_model, version_there
from lwplugin.secret import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

# model → version → its aliases
Aliases = dict[str, dict[int, list[str]]]
_MODELS_A_PAGE = 500
_VERSIONS_A_PAGE = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One registered version as the registry lists it. Holds no address and no credential."""

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    stage: str = "None"
    tags: dict[str, str] = field(default_factory=dict)
    source: str = ""
    run_id: str | None = None
    created_ms: int = 0
    ready: bool = True

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def light(self) -> bool:
        """Did lwplugin register it?"""
        return lineage.DIGEST in self.tags

    @property
    def target(self) -> str | None:
        return self.tags.get(lineage.TARGET)

    @property
    def verdict(self) -> str | None:
        return self.tags.get(lineage.VERDICT)

    def number(self, metric: str) -> float | None:
        """A registered measurement (``p95_ms``); None where it is absent or no finite number."""
        try:
            value = float(self.tags[lineage.PREFIX + metric])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """A whole registry; ``decisions`` are the entries of each model's log as text, since few are ever new."""

    versions: tuple[Listed, ...]
    decisions: dict[str, list[str]]


def holdings(*, tracking_uri: str | None = None, registry_uri: str | None = None) -> Holdings:
    """All versions by name and number, and all logs of decisions, in the reads that :func:`inventory` makes."""
    with connected(tracking_uri, registry_uri) as client:
        models = list(_models(client, None))
        versions = _all_listed(client, None, _aliases(models))
    return Holdings(
        versions=tuple(versions),
        decisions={model.name: entry_texts(model.tags) for model in models},
    )


def inventory(
    name: str | None = None, *, tracking_uri: str | None = None, registry_uri: str | None = None
) -> list[Listed]:
    """All versions of all models, or of one, by name and number; the time is linear in their number.

    Raises RegistryError for an unknown model.
    """
    with connected(tracking_uri, registry_uri) as client:
        aliases = _aliases(_models(client, name))
        if name is not None and name not in aliases:
            registered_model(client, name)  # raises, naming the nearest
            raise RegistryError(f"Model '{name}' went away while it was read", do="try again")
        return _all_listed(client, name, aliases)


def look_up(
    places: Iterable[tuple[str, str]], *, tracking_uri: str | None = None, registry_uri: str | None = None
) -> dict[tuple[str, str], Listed | None]:
    """(model, "3" or "@alias") → the version there now; None where nothing is.

    Raises RegistryError where the registry does not answer.
    """
    found: dict[tuple[str, str], Listed | None] = {}
    with connected(tracking_uri, registry_uri) as client:
        models: dict[str, Aliases] = {}
        for name, reference in places:
            if name not in models:
                model = model_there(client, name)
                models[name] = _aliases([] if model is None else [model])
            found[name, reference] = _at(client, name, reference, models[name])
    return found


def _at(client: MlflowClient, name: str, reference: str, aliases: Aliases) -> Listed | None:
    numbers = [str(v) for v, names in aliases.get(name, {}).items() if reference.removeprefix("@") in names]
    number = next(iter(numbers), None) if reference.startswith("@") else reference
    if number is None:
        return None
    version = version_there(client, name, number)
    return None if version is None else _listed(version, aliases)


def _all_listed(client: MlflowClient, name: str | None, aliases: Aliases) -> list[Listed]:
    found = [_listed(version, aliases) for version in _versions(client, name)]
    return sorted(found, key=lambda version: (version.name, version.version))


def _models(client: MlflowClient, name: str | None) -> Iterator[RegisteredModel]:
    wanted = None if name is None else f"name={quoted(name)}"
    token = None
    while True:
        page = client.search_registered_models(wanted, max_results=_MODELS_A_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(models: Iterable[RegisteredModel]) -> Aliases:
    found: Aliases = {}
    for model in models:
        of_model = found.setdefault(model.name, {})
        for alias, version in dict(model.aliases).items():
            of_model.setdefault(int(version), []).append(alias)
    return found


def _versions(client: MlflowClient, name: str | None) -> Iterator[ModelVersion]:
    """In an order that new versions do not disturb, so that no page misses one."""
    wanted = None if name is None else f"name={quoted(name)}"
    token = None
    while True:
        page = client.search_model_versions(
            wanted,
            max_results=_VERSIONS_A_PAGE,
            order_by=["creation_timestamp ASC", "name ASC", "version_number ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _listed(version: ModelVersion, aliases: Aliases) -> Listed:
    number = int(version.version)
    return Listed(
        name=version.name,
        version=number,
        aliases=tuple(sorted(aliases.get(version.name, {}).get(number, ()))),
        stage=version.current_stage or "None",
        tags=dict(version.tags),
        source=redact(str(version.source or "")),
        run_id=version.run_id or None,
        created_ms=int(version.creation_timestamp or 0),
        ready=version.status == "READY",
    )
