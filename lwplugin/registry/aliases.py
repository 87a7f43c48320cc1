"""Aliases: moving one to a version, remembering what it pointed to before, and going back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.errors import RegistryError
from lwplugin.registry import lineage
from lwplugin.registry.connect import connected
from lwplugin.registry.decisions import decisions_of, record
from lwplugin.registry.proof import proven
from lwplugin.registry.turn import turn
from lwplugin.registry.versions import Resolved, alias_target, registered_model, resolve_with

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROMOTED_TAG = "lwplugin.promoted.{alias}"
ROLLED_BACK_TAG = "lwplugin.rolled_back.{alias}"


class Promotion(BaseModel):
    """Where an alias points now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    alias: str
    version: str
    previous: str | None = Field(description="the version `rollback` would restore")
    moved: bool = Field(description="false where the alias pointed there already")


def promote(
    name: str,
    version: str | int,
    alias: str,
    *,
    reason: str,
    override: str | None = None,
    who: str | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
) -> Promotion:
    """Points `alias` to `version`; `<alias>-previous` keeps the version it pointed to.

    The version must hold a passing verdict about the file it serves, unless `override` says why it may go
    without. Who (default: the account), what and why go into the decision log; concurrent promotions of a
    model happen one after another.

    Raises RegistryError for an unknown model or version, a version that is not ready, an empty reason or a
    verdict that does not pass; GateError where the verdict was tampered with.
    """
    _check(alias, reason)
    with connected(tracking_uri, registry_uri) as client:
        target = resolve_with(client, name, version=str(version))
        proven(target, override=override)
        with turn(client, name):
            rolled_back = ROLLED_BACK_TAG.format(alias=alias)
            if rolled_back in resolve_with(client, name, version=target.version).tags:
                client.delete_model_version_tag(name, target.version, rolled_back)
            return point(client, target, alias, reason=reason, override=override, who=who)


def rollback(
    name: str,
    alias: str,
    *,
    reason: str = "rolled back",
    who: str | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
) -> Promotion:
    """Points `alias` back to the version before; a further call goes one version further back.

    Raises RegistryError where nothing was before.
    """
    _check(alias, reason)
    with connected(tracking_uri, registry_uri) as client:
        registered_model(client, name)
        with turn(client, name):
            return _roll_back(client, name, alias, reason=reason, who=who)


def _roll_back(client: MlflowClient, name: str, alias: str, *, reason: str, who: str | None) -> Promotion:
    current = alias_target(registered_model(client, name), alias)
    before = _previous(client, name, alias)
    if before == current and not _rolled_back_to(client, name, alias, current):
        # A promotion died between noting the version before and moving the alias: go behind the one it left.
        before = _predecessor(resolve_with(client, name, version=current).tags, alias)
    if before is None:
        raise RegistryError(
            f"Alias '{alias}' of model '{name}' has no version to go back to",
            got=f"version {current} and no alias '{alias}-previous'",
            do=f"name one: lwplugin promote models:/{name}/<version> --alias {alias} --reason …",
        )
    restored = resolve_with(client, name, version=before)
    if restored.version != current:
        note = json.dumps({"reason": reason, "at": _now(), "to": restored.version})
        _record(client, restored, alias, "rolled back", previous=current, reason=reason, who=who)
        client.set_model_version_tag(name, current, ROLLED_BACK_TAG.format(alias=alias), note)
        client.set_registered_model_alias(name, alias, restored.version)
    further = _predecessor(restored.tags, alias)
    if further is not None and further != restored.version and _exists(client, name, further):
        client.set_registered_model_alias(name, f"{alias}-previous", further)
    else:
        further = None
        client.delete_registered_model_alias(name, f"{alias}-previous")
    return Promotion(
        name=name,
        alias=alias,
        version=restored.version,
        previous=further,
        moved=restored.version != current,
    )


def point(
    client: MlflowClient,
    target: Resolved,
    alias: str,
    *,
    reason: str,
    action: Literal["promoted", "registered"] = "promoted",
    override: str | None = None,
    who: str | None = None,
) -> Promotion:
    """Moves the alias last, so that a crash before leaves it where it was; the caller has its turn.

    The decision is written down first: a move without its entry cannot be, an entry whose move failed can.
    """
    name, version = target.name, target.version
    current = dict(registered_model(client, name).aliases).get(alias)
    current = None if current is None else str(current)
    if current == version:
        previous = _previous(client, name, alias)
        return Promotion(name=name, alias=alias, version=version, previous=previous, moved=False)
    _record(client, target, alias, action, previous=current, reason=reason, override=override, who=who)
    note = json.dumps({"previous": current, "reason": reason, "at": _now()})
    client.set_model_version_tag(name, version, PROMOTED_TAG.format(alias=alias), note)
    if current is not None:
        client.set_registered_model_alias(name, f"{alias}-previous", current)
    client.set_registered_model_alias(name, alias, version)
    return Promotion(name=name, alias=alias, version=version, previous=current, moved=True)


def _record(
    client: MlflowClient, version: Resolved, alias: str, action: str, *, who: str | None, **why: Any
) -> None:
    fields = {
        "action": action,
        "alias": alias,
        "version": version.version,
        "verdict": version.tags.get(lineage.VERDICT),
        "verdict_digest": version.tags.get(lineage.VERDICT_DIGEST),
        **why,
    }
    record(client, version.name, fields, who=who)


def _check(alias: str, reason: str) -> None:
    if not reason.strip():
        raise RegistryError("A promotion needs a reason", got="an empty one", do="say why in a few words")
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise RegistryError(f"Alias '{alias}' is reserved by MLflow", do="choose another name")
    if alias.endswith("-previous"):
        raise RegistryError(
            f"Alias '{alias}' is kept by lwplugin for going back",
            do=f"move '{alias.removesuffix('-previous')}', or roll it back",
        )


def _previous(client: MlflowClient, name: str, alias: str) -> str | None:
    found = dict(registered_model(client, name).aliases).get(f"{alias}-previous")
    return None if found is None else str(found)


def _rolled_back_to(client: MlflowClient, name: str, alias: str, version: str) -> bool:
    """Was this alias's last decision a rollback to this version? Then one that died in it is gone on with."""
    decided = [entry for entry in decisions_of(registered_model(client, name).tags) if entry.alias == alias]
    return bool(decided) and (decided[-1].action, decided[-1].version) == ("rolled back", version)


def _predecessor(tags: dict[str, str], alias: str) -> str | None:
    try:
        previous = json.loads(tags.get(PROMOTED_TAG.format(alias=alias), "{}")).get("previous")
    except (json.JSONDecodeError, AttributeError):
        return None
    return None if previous is None else str(previous)


def _exists(client: MlflowClient, name: str, version: str) -> bool:
    try:
        resolve_with(client, name, version=version)
    except RegistryError:
        return False
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
