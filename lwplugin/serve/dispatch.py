"""From deliveries to jobs, and from the registry's state to jobs nobody was told of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from lwplugin.log import log
from lwplugin.registry import Holdings, holdings, look_up
from lwplugin.serve.intent import Intent, intents, made_by
from lwplugin.serve.queue import known_keys, open_deliveries, settle
from lwplugin.serve.rules import RuleBook


@dataclass(frozen=True)
class Reconciled:
    """What a comparison of the registry with the rules saw and did."""

    holdings: Holdings
    queued: tuple[Intent, ...]


def dispatch(engine: Engine, book: RuleBook, *, tracking_uri: str | None) -> int:
    """Looks into the oldest deliveries together; answers with how many there were.

    The order of deliveries does not matter: each names a place, and what lies there now counts. Raises
    RegistryError where the registry does not answer; then all stay open.
    """
    batch = open_deliveries(engine)
    if not batch:
        return 0
    events = {(delivery.model, delivery.reference): delivery.event for delivery in batch}
    found = look_up(events, tracking_uri=tracking_uri)
    wanted = [
        (intent, events[place])
        for place, version in found.items()
        if version is not None
        for intent in intents(book, version)
    ]
    _tell(settle(engine, [delivery.id for delivery in batch], wanted), "event")
    return len(batch)


def reconcile(engine: Engine, book: RuleBook, *, tracking_uri: str | None) -> Reconciled:
    """Queues what the rules ask for, nobody has queued and the registry does not hold yet."""
    held = holdings(tracking_uri=tracking_uri)
    made, known = made_by(held.versions), known_keys(engine)
    missing = [
        intent
        for version in held.versions
        for intent in intents(book, version, made=made)
        if intent.key not in known
    ]
    queued = settle(engine, [], [(intent, "reconciler") for intent in missing]) if missing else []
    _tell(queued, "reconciler")
    return Reconciled(held, tuple(queued))


def _tell(queued: Sequence[Intent], noticed: str) -> None:
    for intent in queued:
        log("job queued", noticed=noticed, rule=intent.rule, model=intent.model, version=intent.version)
