"""What is running, for whatever the code it runs logs to MLflow: service job and rule, step and its key.

MLflow finds :class:`RunContext` by its entry point and puts its tags on every run that is started meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "LWPLUGIN_CONTEXT"
_PREFIX = "lwplugin."
_step: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("lwplugin_step", default=())


def for_child(**what: str) -> dict[str, str]:
    """The variable that tells a process what it is started for."""
    return {VARIABLE: json.dumps(what)}


@contextmanager
def running(**what: str) -> Iterator[None]:
    """In this thread and what it starts by itself, until the end of the block."""
    token = _step.set((*_step.get(), *what.items()))
    try:
        yield
    finally:
        _step.reset(token)


def context() -> dict[str, str]:
    """As far as known: ``job``, ``rule`` and ``model`` of the service, ``step`` and ``step_key``."""
    try:
        inherited = json.loads(os.environ.get(VARIABLE, "{}"))
    except ValueError:
        inherited = {}
    found = inherited if isinstance(inherited, dict) else {}
    return {str(key): str(value) for key, value in {**found, **dict(_step.get())}.items()}


def context_tags() -> dict[str, str]:
    """The same as tags: ``lwplugin.job``, ``lwplugin.step``, …"""
    return {_PREFIX + key: value for key, value in context().items()}


class RunContext:
    """An `mlflow.run_context_provider`."""

    def in_context(self) -> bool:
        return bool(context())

    def tags(self) -> dict[str, str]:
        return context_tags()
