"""The service's threads: one looks into deliveries, one reconciles, some run jobs."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine

from lwplugin.log import log
from lwplugin.policy import Findings, evaluate
from lwplugin.registry import Listed
from lwplugin.secret import DATABASE_URL, WEBHOOK_SECRET, redact
from lwplugin.serve import logs as job_logs
from lwplugin.serve import outbox, queue
from lwplugin.serve.dispatch import Reconciled, dispatch, reconcile
from lwplugin.serve.herald import Herald
from lwplugin.serve.metrics import Metrics
from lwplugin.serve.pages.survey import Fleet, survey, violations
from lwplugin.serve.queue import Delivery
from lwplugin.serve.rules import RuleBook
from lwplugin.serve.work import LEASE_S, Worker
from lwplugin.tracing import span

_IDLE_S = 1.0
_TROUBLE_S = 5.0
_FORGET_S = 600.0
_REMEMBERED_S = 7 * 24 * 3600.0


class Service:
    """Everything but HTTP. ``start`` and ``stop`` once each."""

    def __init__(
        self,
        engine: Engine,
        book: RuleBook,
        *,
        logs: Path,
        tracking_uri: str | None = None,
        workers: int = 1,
        reconcile_s: float = 60.0,
        lease_s: float = LEASE_S,
        most_open: int = 10_000,
        keep_logs_s: float = job_logs.KEEP_DAYS * 86_400,
        most_logs: int = job_logs.MOST_ATTEMPTS,
    ) -> None:
        self.engine, self.book, self.tracking_uri = engine, book, tracking_uri
        self.metrics = Metrics()
        self.mlflow = (book.rules.mlflow or _browsable(tracking_uri) or "").rstrip("/")
        self._herald = Herald(engine, book.rules.notify, mlflow=self.mlflow)
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.seen: Reconciled | None = None
        self.fleet: Fleet | None = None
        self._most_open = most_open
        self._forget_logs = partial(
            job_logs.forget,
            logs,
            keep_s=keep_logs_s,
            most=most_logs,
            running=partial(queue.running_jobs, engine),
        )
        self._open, self._counting = 0, threading.Lock()
        self._stop, self._news = threading.Event(), threading.Event()
        self._work_waits = threading.Event()
        self._worker = Worker(
            engine,
            self.owner,
            logs=logs,
            program=book.rules.command,
            tracking_uri=tracking_uri,
            lease_s=lease_s,
            ended=lambda state, seconds: self.metrics.job_seconds.labels(state).observe(seconds),
            tell=self._herald.job_ended,
            withheld=[
                WEBHOOK_SECRET,
                DATABASE_URL,
                *(v for c in book.rules.notify for v in c.way.variables()),
            ],
        )
        loops: list[tuple[str, Callable[[], bool], threading.Event, float]] = [
            ("dispatch", self._dispatch, self._news, _IDLE_S),
            ("reconcile", self._reconcile, self._stop, reconcile_s),
            ("forget", self._forget, self._stop, _FORGET_S),
        ]
        loops += [(f"work-{n}", self._work, self._work_waits, _IDLE_S) for n in range(workers)]
        # A thread for each channel, so that a slow one holds up no other and nothing else.
        loops += [
            (f"notify-{channel.name}", partial(self._herald.send_once, channel), self._stop, _IDLE_S)
            for channel in self._herald.channels
        ]
        self._threads = [
            threading.Thread(target=self._loop, args=loop, name=loop[0], daemon=True) for loop in loops
        ]

    def start(self) -> None:
        """Returns at once."""
        self._open = queue.backlog(self.engine)
        channels = [channel.name for channel in self._herald.channels]
        log("started", owner=self.owner, rules=len(self.book.rules.rules), channels=channels)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends running jobs, which go back into the queue, and waits for the threads."""
        log("stopping", owner=self.owner)
        self._stop.set()
        self._news.set()
        self._work_waits.set()
        for thread in self._threads:
            thread.join(30)
        log("stopped", owner=self.owner)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def ready(self) -> str | None:
        """None, or why no delivery should be sent here."""
        if self.stopping:
            return "stopping"
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead:
            return f"not running: {', '.join(dead)}"
        try:
            queue.backlog(self.engine)
        except Exception:
            log("database does not answer", error=True, level=logging.ERROR)
            return "the database does not answer"
        return None

    def full(self) -> bool:
        """Must senders wait?"""
        return self.stopping or self._open >= self._most_open

    def take_in(self, batch: Sequence[Delivery]) -> set[str]:
        """See :func:`lwplugin.serve.queue.take_in`."""
        with self._counting:
            new = queue.take_in(self.engine, batch)
            self._open += len(new)
        return new

    def arrived(self) -> None:
        """Wakes the thread that looks into deliveries."""
        self._news.set()

    def _dispatch(self) -> bool:
        self._news.clear()
        with self._counting:
            self._open = queue.backlog(self.engine)
        if not self._open:
            return False
        dispatch(self.engine, self.book, tracking_uri=self.tracking_uri)
        self._work_waits.set()
        return True

    def _reconcile(self) -> bool:
        with span("reconcile"):
            return self._reconciled()

    def _reconciled(self) -> bool:
        began = time.monotonic()
        self.metrics.registry_up.set(0)
        self.seen = reconcile(self.engine, self.book, tracking_uri=self.tracking_uri)
        versions = self.seen.holdings.versions
        findings, now = self._findings(versions), time.time()
        self.fleet = survey(versions, findings, taken_s=now)
        self._herald.look(self.seen.holdings, findings)
        self.metrics.registry_up.set(1)
        self.metrics.missed.inc(len(self.seen.queued))
        self.metrics.reconcile_seconds.set(time.monotonic() - began)
        self.metrics.reconciled.set_to_current_time()
        self.metrics.judged(Counter(v.verdict or "none" for v in versions))
        self._work_waits.set()
        return False

    def _forget(self) -> bool:
        """What grows; a thread of its own, since a registry that is down must not let it."""
        queue.forget(self.engine, _REMEMBERED_S)
        outbox.forget(self.engine, _REMEMBERED_S)
        self._forget_logs()
        return False

    def _findings(self, versions: Sequence[Listed]) -> Findings | None:
        """Of the rules file's policy; None without one."""
        policy = self.book.policy
        if policy is None:
            return None
        findings = evaluate(policy, versions, today=datetime.datetime.now(datetime.UTC).date())
        self.metrics.violated(policy, violations(findings))
        return findings

    def _work(self) -> bool:
        self._work_waits.clear()
        return self._worker.work_once(self._stop)

    def _loop(self, name: str, step: Callable[[], bool], news: threading.Event, idle_s: float) -> None:
        """Calls ``step`` until the stop; waits where it had nothing to do, longer where it failed."""
        while not self._stop.is_set():
            try:
                if step():
                    continue
            except Exception:
                log("trouble", error=True, level=logging.ERROR, loop=name)
                self._stop.wait(_TROUBLE_S)
                continue
            news.wait(idle_s)


def _browsable(tracking_uri: str | None) -> str | None:
    """The tracking address where a browser could open it, without credentials."""
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return redact(address) if urlsplit(address).scheme in ("http", "https") else None
