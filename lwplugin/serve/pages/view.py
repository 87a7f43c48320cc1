"""Templates to HTML: every value escaped, undefined ones refused, one style sheet known to the browser by its hash."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from lwplugin.report import units

_WORDS = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "inconclusive",
    "error": "error",
    "none": "not judged",
    "broken": "broken",
    "unknown": "unknown",
    "warned": "warned or waived",
    "met": "met",
    "queued": "queued",
    "running": "running",
    "waiting": "waiting",
    "sending": "sending",
    "sent": "sent",
    "dead": "not delivered",
}
_SYMBOLS = {
    "pass": "✓",
    "fail": "✕",
    "inconclusive": "?",
    "error": "!",
    "none": "·",
    "broken": "✕",
    "unknown": "?",
    "warned": "!",
    "met": "✓",
    "queued": "…",
    "running": "▸",
    "waiting": "…",
    "sending": "▸",
    "sent": "✓",
    "dead": "✕",
}


def page(template: str, **values: Any) -> str:
    """The whole page as text."""
    return _environment().get_template(template).render(**values)


@cache
def security_headers() -> dict[str, str]:
    """Nothing is fetched, framed, stored or run; forms go here only."""
    digest = base64.b64encode(hashlib.sha256(_css().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def when(seconds: float | None) -> str:
    """Since 1970 → the minute, UTC.

    >>> when(0.0), when(1764000000.0)
    ('–', '2025-11-24 16:00 UTC')
    """
    if not seconds:
        return units.MISSING
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return units.MISSING


def minute(text: str) -> str:
    """ISO 8601 → the minute, UTC; what is no time stays as it is.

    >>> minute("2025-11-24T17:00:09+01:00"), minute("yesterday")
    ('2025-11-24 16:00 UTC', 'yesterday')
    """
    try:
        return when(datetime.fromisoformat(text).timestamp())
    except ValueError:
        return text


@cache
def _css() -> str:
    report = (files("lwplugin.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return report + (files("lwplugin.serve.pages") / "templates" / "fleet.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("lwplugin.serve.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "metric": lambda value, name: units.of_metric(name, value),
        "score": lambda value, name: units.of_score(name, value),
        "count": lambda value: f"{int(value):,}",
        "digest": units.short_digest,
        "part": lambda value: quote(str(value), safe=""),
        "when": when,
        "minute": minute,
        "words": lambda value: str(value).replace("_", " "),
    }
    made.globals |= {
        "css": _css(),
        "symbol": _SYMBOLS,
        "word": {key: text.capitalize() for key, text in _WORDS.items()},
        "word_of": lambda status: _WORDS.get(status, status),
        "taken": "",
        "mlflow": "",
        "closed": False,
        "told": False,
    }
    return made
