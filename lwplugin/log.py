"""Structured logs: one JSON object a line, with the ids of what it is about."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from lwplugin.run_context import context
from lwplugin.secret import redact
from lwplugin.tracing import trace_id

_log = logging.getLogger("lwplugin")


class JsonLines(logging.Formatter):
    """``{"at": …, "level": …, "event": …, "job": 3, …}``; credentials in addresses are cut out.

    What runs (:mod:`lwplugin.run_context`) and the trace are added to what a line says itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "event": record.getMessage(), **context()}
        if (trace := trace_id()) is not None:
            line["trace"] = trace
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
        return redact(json.dumps(line, default=str, ensure_ascii=False))


def log(event: str, *, level: int = logging.INFO, error: bool = False, **fields: Any) -> None:
    """``error`` adds the exception that is being handled."""
    _log.log(level, event, extra={"fields": fields}, exc_info=error)


def log_to_stderr() -> None:
    """Everything this process logs, uvicorn's lines too, in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
