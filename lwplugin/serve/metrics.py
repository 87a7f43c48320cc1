"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Engine

from lwplugin.policy import FleetPolicy
from lwplugin.serve import outbox
from lwplugin.serve.queue import backlog, job_counts

STATES = ("queued", "running", "pass", "fail", "inconclusive", "error")


class Metrics:
    """Counted as things happen; what lies in the database is read when asked for."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self.deliveries = Counter(
            "lwplugin_deliveries", "Deliveries by what became of them.", ["outcome"], registry=self._registry
        )
        self.jobs = Gauge("lwplugin_jobs", "Jobs by state.", ["state"], registry=self._registry)
        self.backlog = Gauge(
            "lwplugin_open_deliveries", "Deliveries nobody has looked into.", registry=self._registry
        )
        self.notices = Gauge(
            "lwplugin_notices", "Notices by channel and state.", ["channel", "state"], registry=self._registry
        )
        self.job_seconds = Histogram(
            "lwplugin_job_seconds",
            "How long jobs took, by how they ended.",
            ["state"],
            buckets=(1, 5, 15, 60, 300, 900, 3600, 14400, 86400),
            registry=self._registry,
        )
        self.reconcile_seconds = Gauge(
            "lwplugin_reconcile_seconds", "The last comparison took.", registry=self._registry
        )
        self.reconciled = Gauge(
            "lwplugin_last_reconciled_timestamp_seconds", "When it ended.", registry=self._registry
        )
        self.missed = Counter(
            "lwplugin_missed", "Work the reconciler found and no event did.", registry=self._registry
        )
        self.registry_up = Gauge(
            "lwplugin_registry_up", "1 while the registry answers.", registry=self._registry
        )
        self.versions = Gauge(
            "lwplugin_versions", "Registered versions by verdict.", ["verdict"], registry=self._registry
        )
        self.violations = Gauge(
            "lwplugin_policy_violations",
            "Checks of the policy that did not pass and are not waived.",
            ["rule", "severity", "status"],
            registry=self._registry,
        )

    def judged(self, counts: Mapping[str, int]) -> None:
        """Verdict → versions; a verdict that no version has any more is shown no longer."""
        self.versions.clear()
        for verdict, count in counts.items():
            self.versions.labels(verdict).set(count)

    def violated(self, policy: FleetPolicy, counts: Mapping[tuple[str, str, str], int]) -> None:
        """(rule, severity, status) → checks; what is absent is set to none, so that an alert ends."""
        for rule in policy.rules:
            for status in ("fail", "inconclusive"):
                labels = (rule.name, rule.severity, status)
                self.violations.labels(*labels).set(counts.get(labels, 0))

    def text(self, engine: Engine) -> bytes:
        """The exposition format."""
        from prometheus_client import generate_latest

        counts = job_counts(engine)
        for state in STATES:
            self.jobs.labels(state).set(counts.get(state, 0))
        self.backlog.set(backlog(engine))
        noted = outbox.counts(engine)
        self.notices.clear()
        for channel in {channel for channel, _ in noted}:
            for state in outbox.STATES:
                self.notices.labels(channel, state).set(noted.get((channel, state), 0))
        return bytes(generate_latest(self._registry))
