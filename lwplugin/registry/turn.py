"""One at a time on a registered model, between processes and machines, with nothing but the registry's tags.

MLflow knows no compare-and-swap. Lamport's bakery algorithm (1974) needs none: whoever comes takes a number
higher than all it sees, and the lowest number goes first.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lwplugin.errors import RegistryError
from lwplugin.registry.versions import registered_model

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "lwplugin.turn."
_CHOOSING = "choosing"
_POLL_S = 0.1
# A turn is a few writes; one that has not moved for so long belongs to a process that died.
ABANDONED_S = 30.0
_MOST_WAIT_S = 600.0


@contextmanager
def turn(client: MlflowClient, name: str, *, abandoned_s: float = ABANDONED_S) -> Iterator[None]:
    """Waits for its turn on model ``name``. Raises RegistryError after ten minutes."""
    mine = PREFIX + uuid.uuid4().hex
    client.set_registered_model_tag(name, mine, _CHOOSING)
    try:
        number = 1 + max((int(n) for n in _others(client, name, mine).values() if n != _CHOOSING), default=0)
        client.set_registered_model_tag(name, mine, str(number))
        _wait(client, name, mine, number, abandoned_s)
        yield
    finally:
        client.delete_registered_model_tag(name, mine)


def _wait(client: MlflowClient, name: str, mine: str, number: int, abandoned_s: float) -> None:
    began = time.monotonic()
    since: dict[tuple[str, str], float] = {}
    while True:
        now = time.monotonic()
        before_me = {
            key: value
            for key, value in _others(client, name, mine).items()
            if value == _CHOOSING or (int(value), key) < (number, mine)
        }
        for place in before_me.items():
            if now - since.setdefault(place, now) > abandoned_s:
                client.delete_registered_model_tag(name, place[0])
        if not before_me:
            return
        if now - began > _MOST_WAIT_S:
            raise RegistryError(
                f"Others keep changing model '{name}'",
                got=f"{len(before_me)} before us after {_MOST_WAIT_S:.0f} s",
                do="try again, and look for what promotes it all the time",
            )
        time.sleep(_POLL_S)


def _others(client: MlflowClient, name: str, mine: str) -> dict[str, str]:
    tags = registered_model(client, name).tags
    waiting = {key: str(value) for key, value in tags.items() if key.startswith(PREFIX) and key != mine}
    return {key: value for key, value in waiting.items() if value == _CHOOSING or value.isdigit()}
