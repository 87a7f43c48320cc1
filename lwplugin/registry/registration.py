"""Puts a light version that passed its gate back into the registry: once, with lineage, the alias last."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.artifact import digest_json
from lwplugin.errors import RegistryError
from lwplugin.export.base import load_exported
from lwplugin.progress import Progress, silent
from lwplugin.registry import lineage
from lwplugin.registry.aliases import ROLLED_BACK_TAG, point
from lwplugin.registry.connect import connected
from lwplugin.registry.later_pass import set_right
from lwplugin.registry.seal import parent_of, sealed_verdict
from lwplugin.registry.turn import turn
from lwplugin.registry.upload import Upload, close_orphans, find_upload, upload
from lwplugin.registry.versions import Resolved, quoted, resolve_with

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lwplugin.gate.verdict import Verdict


class Registration(BaseModel):
    """What the registry holds now. Holds no address and no credential."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    uri: str
    alias: str | None
    previous: str | None = Field(
        description="the version the alias pointed to before; `rollback` restores it"
    )
    created: bool = Field(description="false where this very content was registered already")
    digest: str = Field(description="the idempotency key: one version per digest")
    parent: str
    run_id: str | None
    model_id: str | None
    tags: dict[str, str]


def register(
    *,
    parent: Resolved,
    bundle: Path | str,
    exported: Path | str,
    verdict: Verdict | Mapping[str, Any],
    target: str,
    metrics: Mapping[str, float],
    recipe_digest: str = "",
    report: Path | None = None,
    params: Mapping[str, Any] | None = None,
    data_digest: str | None = None,
    name: str | None = None,
    alias: str | None = None,
    threads: int = 1,
    experiment: str = "lwplugin",
    override: str | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    progress: Progress = silent,
) -> Registration:
    """Registers `exported` and `bundle` (directories) as one version of `name` (default: the parent's model).

    The same parent, file and target make one version, however often and from however many processes this
    runs. `metrics` keep their units in their names (`p50_ms`). `override`, a reason, registers against the
    verdict and is recorded; where that version passes later, its tags say so, and that there was an override.

    Raises RegistryError where the verdict is no pass or about another file, the bundle has another parent,
    the file does not answer in the parent's schema, or the alias was rolled back from this version.
    """
    bundle, exported = Path(bundle), Path(exported)
    file_digest = load_exported(exported).digest
    seal = sealed_verdict(verdict, file_digest=file_digest, override=override)
    parent_digest = parent_of(bundle, parent)
    numbers = _finite(metrics)
    registered_name = name or parent.name
    digest = digest_json(
        {"schema": 1, "parent": parent_digest, "file": file_digest, "target": target, "threads": threads}
    )
    tags = {
        lineage.DIGEST: digest,
        lineage.PARENT_VERSION: parent.uri,
        lineage.PARENT_DIGEST: parent_digest,
        lineage.RECIPE_DIGEST: recipe_digest,
        lineage.TARGET: target,
        **_judged(seal, numbers, override),
    }
    content = Upload(
        parent=parent, bundle=bundle, exported=exported, report=report, verdict=seal, threads=threads
    )
    described = {"parent": parent.uri, "target": target, "recipe_digest": recipe_digest}
    with connected(tracking_uri, registry_uri) as client:
        version = _registered(client, registered_name, digest)
        created = version is None
        if version is None:
            progress("register", 0, 3)
            run_id, model_id = find_upload(client, experiment, digest, seal.digest) or upload(
                client,
                content,
                experiment=experiment,
                name=registered_name,
                model_name=re.sub(r"[^\w-]", "-", target),
                tags=tags,
                params=described | lineage.flat_params(params or {}),
                metrics=numbers,
                data_digest=data_digest,
            )
            progress("register", 1, 3)
            version, created = _create(client, registered_name, run_id, model_id, tags, parent, target)
            if not created:
                client.set_tag(run_id, lineage.SUPERSEDED_BY, f"models:/{registered_name}/{version}")
            close_orphans(client, experiment, digest, f"models:/{registered_name}/{version}")
        if not created:
            set_right(client, registered_name, version, seal, tags, report)
        progress("register", 2, 3)
        previous = _set_alias(client, registered_name, version, alias, recipe_digest) if alias else None
        progress("register", 3, 3)
        final = resolve_with(client, registered_name, version=version)
        return Registration(
            name=registered_name,
            version=version,
            uri=final.uri,
            alias=alias,
            previous=previous,
            created=created,
            digest=digest,
            parent=parent.uri,
            run_id=final.run_id,
            model_id=final.model_id,
            tags=final.tags,
        )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    numbers = {key: float(value) for key, value in metrics.items()}
    bad = [key for key, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise RegistryError(
            "A measurement is no finite number",
            got=", ".join(bad),
            do="measure again; nothing unmeasured is registered",
        )
    return numbers


def _judged(verdict: Verdict, numbers: Mapping[str, float], override: str | None) -> dict[str, str]:
    """Tags of what was measured and decided."""
    return {
        lineage.VERDICT: verdict.status,
        lineage.VERDICT_DIGEST: verdict.digest,
        **({} if override is None else {lineage.OVERRIDE: override}),
        **{
            f"{lineage.PREFIX}{key}": format(value, ".12g")
            for key, value in (dict(numbers) | _drops(verdict)).items()
        },
    }


def _drops(verdict: Verdict) -> dict[str, float]:
    """The largest drop of each score that the gate could not rule out: what a policy's margin is held to."""
    return {
        f"{check.metric}_drop_high": -check.low
        for check in verdict.checks
        if check.name in verdict.policy.max_drop and check.low is not None
    }


def _registered(client: MlflowClient, name: str, digest: str) -> str | None:
    """The version of this digest, the lowest where two processes raced."""
    numbers = _same_digest(client, name, digest)
    return str(numbers[0]) if numbers else None


def _same_digest(client: MlflowClient, name: str, digest: str) -> list[int]:
    wanted = f"name={quoted(name)} and tags.`{lineage.DIGEST}`='{digest}'"
    found = client.search_model_versions(wanted)
    return sorted(int(version.version) for version in found if version.status == "READY")


def _create(
    client: MlflowClient,
    name: str,
    run_id: str,
    model_id: str,
    tags: dict[str, str],
    parent: Resolved,
    target: str,
) -> tuple[str, bool]:
    """One version with all its tags in one write; of two written at once, the later one is taken back."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it is there in all but the first registration under a new name
        client.create_registered_model(name)
    mine = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run_id,
        tags=tags,
        description=f"Light version of {parent.uri} for target {target}, made by lwplugin.",
        model_id=model_id,
    )
    lowest = _registered(client, name, tags[lineage.DIGEST])
    if lowest is None or int(lowest) == int(mine.version):
        return str(mine.version), True
    client.delete_model_version(name, str(mine.version))
    return lowest, False


def _set_alias(client: MlflowClient, name: str, version: str, alias: str, recipe_digest: str) -> str | None:
    with turn(client, name):
        # Now: it may have been rolled back while others had their turn.
        target = resolve_with(client, name, version=version)
        _refuse_rolled_back(target, alias)
        reason = (
            f"registered by recipe {recipe_digest[:12]}" if recipe_digest else "registered without a recipe"
        )
        override = target.tags.get(lineage.OVERRIDE)
        return point(client, target, alias, reason=reason, action="registered", override=override).previous


def _refuse_rolled_back(target: Resolved, alias: str) -> None:
    note = target.tags.get(ROLLED_BACK_TAG.format(alias=alias))
    if note is None:
        return
    with suppress(json.JSONDecodeError, AttributeError):
        note = json.loads(note).get("reason", note)
    raise RegistryError(
        f"Version {target.version} of model '{target.name}' was rolled back from alias '{alias}'",
        got=note,
        do=f"lwplugin promote {target.uri} --alias {alias} --reason …, if it is wanted after all",
    )
