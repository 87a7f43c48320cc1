"""From what happened to notices in the outbox, and from the outbox to their channels."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from lwplugin.errors import LwpluginError
from lwplugin.log import log
from lwplugin.notify import Channel, Event, Item, Notice, NotSentError, send
from lwplugin.policy import Findings
from lwplugin.registry import Holdings
from lwplugin.serve import outbox
from lwplugin.serve.facts import facts_of, link_to, new_facts
from lwplugin.serve.queue import Ended
from lwplugin.tracing import span

_EVENT_OF_STATE: dict[str, Event] = {
    "pass": "passed",
    "fail": "gate_failed",
    "inconclusive": "inconclusive",
    "error": "job_failed",
}
_TEXT_OF_STATE = {
    "pass": "passed its gate",
    "fail": "failed its gate",
    "inconclusive": "could not be judged",
    "error": "ended with an error; its log is on the service's volume",
}


class Herald:
    """``mlflow``: its address as people's browsers reach it, for links; empty: no links."""

    def __init__(self, engine: Engine, channels: Sequence[Channel], *, mlflow: str = "") -> None:
        self._engine, self.channels, self._mlflow = engine, tuple(channels), mlflow

    def job_ended(self, connection: Connection, job: Ended) -> None:
        """In the transaction that ends it, so that the end is never without its notices, nor told twice."""
        item = Item(
            model=job.model,
            version=job.version,
            text=f"job {job.id} of rule '{job.rule}' {_TEXT_OF_STATE[job.state]}",
            link=link_to(self._mlflow, job.model, job.version),
            rule=job.rule,
            job=job.id,
        )
        outbox.put(connection, self.channels, _EVENT_OF_STATE[job.state], [item])

    def look(self, held: Holdings, findings: Findings | None) -> None:
        """What the registry shows now and did not before; all of one kind in one notice."""
        if not self.channels:
            return
        shown = facts_of(held, findings, mlflow=self._mlflow)
        with self._engine.begin() as connection:
            items: dict[Event, list[Item]] = defaultdict(list)
            for fact in new_facts(connection, shown):
                item = fact.item()
                if item is not None:
                    items[fact.event].append(item)
            for event, found in items.items():
                outbox.put(connection, self.channels, event, found)

    def send_once(self, channel: Channel) -> bool:
        """The channel's next notice; False where none is due. A crash in between sends it once more."""
        letter = outbox.claim(self._engine, channel.name)
        if letter is None:
            return False
        about: dict[str, Any] = {
            "channel": channel.name,
            "notice": letter.notice.id,
            "of": letter.notice.event,
        }
        with span("notify", channel=channel.name, notice=letter.notice.id):
            problem = _sent(channel, letter.notice)
        if problem is None:
            outbox.sent(self._engine, letter)
            log("notice sent", attempt=letter.attempt, **about)
            return True
        why, wait = str(problem), problem.retry_after_s
        state = outbox.not_sent(self._engine, letter, why, final=problem.final, retry_after_s=wait)
        about |= {"attempt": letter.attempt, "state": state, "why": why}
        log("notice not sent", level=logging.WARNING, **about)
        return True


def _sent(channel: Channel, notice: Notice) -> NotSentError | None:
    """None, or why not, in words that hold no secret."""
    try:
        send(channel, notice)
    except NotSentError as error:
        return error
    except LwpluginError as error:
        return NotSentError(str(error))
    except Exception as error:  # its text may hold an address that is a secret
        return NotSentError(f"{type(error).__name__} in the channel")
    return None
