"""The log of decisions: who moved which alias where and why. Entries are added and never changed.

Each entry is a tag of the registered model and holds the digest of the one before, so that a changed or
removed entry shows. Whoever may delete all tags can delete the log: export it where that matters.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lwplugin.artifact import digest_json
from lwplugin.errors import RegistryError
from lwplugin.registry.connect import connected
from lwplugin.registry.versions import registered_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "lwplugin.decision."
_MOST_CHARACTERS = 1000


class Decision(BaseModel):
    """One entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    at: str = Field(description="ISO 8601, UTC, by the clock of who decided")
    who: str
    action: Literal["promoted", "rolled back", "registered"]
    model: str
    alias: str
    version: str
    previous: str | None = Field(description="the version the alias pointed to")
    reason: str
    verdict: str | None
    verdict_digest: str | None
    override: str | None = Field(None, description="why it was done without a passing verdict")
    before: str | None = Field(description="digest of the entry before")
    digest: str = ""

    def sealed(self) -> Decision:
        """With its digest."""
        return self.model_copy(update={"digest": self._seal()})

    def _seal(self) -> str:
        return digest_json(self.model_dump(mode="json", exclude={"digest"}))

    @property
    def intact(self) -> bool:
        return self.digest == self._seal()


def decision_log(
    name: str, *, tracking_uri: str | None = None, registry_uri: str | None = None
) -> list[Decision]:
    """A model's log, oldest first. Raises RegistryError where an entry was changed or is missing."""
    with connected(tracking_uri, registry_uri) as client:
        log = decisions_of(registered_model(client, name).tags)
    before = None
    for number, entry in enumerate(log, 1):
        if entry.number != number or entry.before != before or not entry.intact:
            raise RegistryError(
                f"The log of model '{name}' is not as it was written",
                got=f"entry {number} is missing, changed, or does not follow the one before",
                do="compare it with an export, and find out who may edit the model's tags",
            )
        before = entry.digest
    return log


def record(client: MlflowClient, name: str, fields: Mapping[str, Any], *, who: str | None) -> Decision:
    """Adds an entry; the caller has its turn on the model."""
    log = decisions_of(registered_model(client, name).tags)
    shortened = {
        key: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for key, value in fields.items()
    }
    entry = Decision(
        number=len(log) + 1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        who=(who or _account())[:_MOST_CHARACTERS],
        model=name,
        before=log[-1].digest if log else None,
        **shortened,
    ).sealed()
    client.set_registered_model_tag(name, f"{PREFIX}{entry.number:06d}", entry.model_dump_json())
    return entry


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no account has
        return f"uid {os.getuid()}"


def entry_texts(tags: Mapping[str, str]) -> list[str]:
    """The log's entries as they stand in a model's tags, oldest first, unread and unverified."""
    return [tags[key] for key in sorted(tags) if key.startswith(PREFIX)]


def decisions_of(tags: Mapping[str, str]) -> list[Decision]:
    """A model's log from its tags, oldest first, unverified. Raises RegistryError where an entry cannot be read."""
    found = []
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            found.append(Decision.model_validate(json.loads(tags[key])))
        except ValueError:
            raise RegistryError(
                "An entry of the decision log cannot be read", got=key, do="restore it from an export"
            ) from None
    return found
