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
    from mlflow.entities.model_registry import RegisteredModel

PREFIX = "lwplugin.turn."
_CHOOSING = "choosing"
_POLL_S = 0.1
# A turn is a few writes; where nothing was written for so long, whose turn it is has died.
ABANDONED_S = 30.0
_MOST_WAIT_S = 600.0


@contextmanager
def turn(client: MlflowClient, name: str, *, abandoned_s: float | None = None) -> Iterator[None]:
    """Waits for its turn on model ``name``. Raises RegistryError after ten minutes."""
    mine = PREFIX + uuid.uuid4().hex
    try:
        _wait(client, name, mine, ABANDONED_S if abandoned_s is None else abandoned_s)
        yield
    finally:
        client.delete_registered_model_tag(name, mine)


def _take_number(client: MlflowClient, name: str, mine: str, abandoned_s: float) -> int:
    """Chosen again where it took so long that others may have stopped waiting for it."""
    while True:
        began = time.monotonic()
        client.set_registered_model_tag(name, mine, _CHOOSING)
        line = _line(registered_model(client, name))
        number = 1 + max((int(n) for n in line.values() if n != _CHOOSING), default=0)
        client.set_registered_model_tag(name, mine, str(number))
        if time.monotonic() - began < abandoned_s:
            return number


def _wait(client: MlflowClient, name: str, mine: str, abandoned_s: float) -> None:
    began, number = time.monotonic(), _take_number(client, name, mine, abandoned_s)
    work: object = None
    since: dict[tuple[str, str], float] = {}
    while True:
        model, now = registered_model(client, name), time.monotonic()
        line = _line(model)
        if mine not in line:  # we were taken for dead: somebody may be at work in our place
            number = _take_number(client, name, mine, abandoned_s)
            continue
        choosing = [place for place in line.items() if place[1] == _CHOOSING and place[0] != mine]
        before_me = [
            place for place in line.items() if place[1] != _CHOOSING and _rank(place) < (number, mine)
        ]
        if not choosing and not before_me:
            return
        if (seen := _work(model)) != work:  # whoever is at work moves on
            work, since = seen, {}
        # Only who should act now can be late: those further back wait as we do.
        acting = [*choosing, *sorted(before_me, key=_rank)[:1]]
        since = {place: since.get(place, now) for place in acting}
        for place, first_seen in since.items():
            if now - first_seen > abandoned_s:
                client.delete_registered_model_tag(name, place[0])
        if now - began > _MOST_WAIT_S:
            raise RegistryError(
                f"Others keep changing model '{name}'",
                got=f"{len(acting)} or more before us after {_MOST_WAIT_S:.0f} s",
                do="try again, and look for what promotes it all the time",
            )
        time.sleep(_POLL_S)


def _rank(place: tuple[str, str]) -> tuple[int, str]:
    key, number = place
    return int(number), key


def _line(model: RegisteredModel) -> dict[str, str]:
    """Tag → number, or that one is being chosen, of all who wait or work."""
    tags = {key: str(value) for key, value in model.tags.items() if key.startswith(PREFIX)}
    return {key: value for key, value in tags.items() if value == _CHOOSING or value.isdecimal()}


def _work(model: RegisteredModel) -> object:
    """What a turn changes."""
    return dict(model.aliases), {key: v for key, v in model.tags.items() if not key.startswith(PREFIX)}
