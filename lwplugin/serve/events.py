"""What a delivery says: an event is only a hint where to look; what the registry holds now decides."""

from __future__ import annotations

import json
from typing import Any

from lwplugin.serve.queue import Delivery

# Those that cannot start anything (deletions, new empty models) are answered and dropped.
_VERSION_EVENTS = {"model_version.created", "model_version_tag.set"}
_ALIAS_EVENTS = {"model_version_alias.created"}


class MalformedError(Exception):
    """The body is not an MLflow event."""


def delivery_of(identity: str, body: bytes) -> Delivery | None:
    """None for an event that can start nothing. Raises MalformedError."""
    try:
        content: Any = json.loads(body)
        event, data = f"{content['entity']}.{content['action']}", content["data"]
        if event in _ALIAS_EVENTS:
            model, reference = data["name"], f"@{data['alias']}"
        elif event in _VERSION_EVENTS:
            model, reference = data["name"], str(int(data["version"]))
        else:
            return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedError(type(error).__name__) from None
    if not (isinstance(model, str) and 0 < len(model) <= 256 and len(reference) <= 256):
        raise MalformedError("names of impossible length")
    if "\x00" in model + reference or not _is_text(model + reference):
        raise MalformedError("a name that no database takes")
    return Delivery(id=identity, event=event, model=model, reference=reference)


def _is_text(name: str) -> bool:
    """JSON can say half a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
