"""The HTML page: one file, no script needed, nothing fetched."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from lwplugin.report import charts, facts, images, units
from lwplugin.report.inputs import Content, Json, number
from lwplugin.report.layers import layer_rows, step_rows
from lwplugin.report.removal import removals
from lwplugin.report.robustness import robustness

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

MOST_IMAGES = 24
MOST_CHARACTERS = 400
WORDS = {
    "pass": "Pass",
    "fail": "Fail",
    "inconclusive": "Inconclusive",
    "error": "Error",
    "none": "Not judged",
}
SYMBOLS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "error": "!", "none": "·"}


def html(content: Content) -> str:
    """The whole page as text."""
    return environment().get_template("report.html.j2").render(_view(content))


def card(content: Content) -> str:
    """The model card in Markdown."""
    return markdown_environment().get_template("model_card.md.j2").render(_view(content))


@cache
def environment() -> Environment:
    """Jinja that escapes every value and refuses undefined ones."""
    return _environment(autoescape=True)


@cache
def markdown_environment() -> Environment:
    """The same for Markdown: templates pass every value through ``md``."""
    return _environment(autoescape=False)


def _environment(*, autoescape: bool) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("lwplugin.report", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "sig": lambda value: units.MISSING if value is None else units.significant(float(value)),
        "metric": lambda value, name: units.of_metric(name, number(value)),
        "score": lambda value, name: units.of_score(name, number(value)),
        "difference": lambda value, name: units.of_difference(name, number(value)),
        "count": lambda value: units.MISSING if value is None else f"{int(value):,}",
        "prefixed": lambda value: units.MISSING if value is None else units.prefixed(float(value), ""),
        "bytes": lambda value: units.MISSING if value is None else units.prefixed(float(value), "B"),
        "digest": units.short_digest,
        "cell": _cell,
        "inline": lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False),
        "md": _markdown,
        "title_of": _title,
        "words": lambda value: str(value).replace("_", " "),
    }
    return made


def _view(content: Content) -> dict[str, Any]:
    verdict = content.verdict
    status = verdict.get("status") if verdict.get("status") in facts.ACTIVE_STATUSES else "none"
    steps = step_rows(content)
    layers = layer_rows(content)
    slices = facts.slice_rows(content)
    times = facts.layer_times_of(content)
    largest = max((max(row.macs_before or 0, row.macs_after or 0) for row in layers), default=0) or 1
    return {
        "c": content,
        "css": (files("lwplugin.report") / "templates" / "report.css").read_text(encoding="utf-8"),
        "status": status,
        "word": WORDS,
        "symbol": SYMBOLS,
        "reason": verdict.get("reason")
        or "No verdict was given: nothing on this page says that the candidate is good enough.",
        "confidence": number((verdict.get("policy") or {}).get("confidence")),
        "rows": facts.side_by_side(content),
        "speedup": facts.speedup_of(content),
        "headline": _headline(content),
        "checks": [c for c in verdict.get("checks", []) if not c["name"].startswith("slice:")],
        "slice_checks": [c for c in verdict.get("checks", []) if c["name"].startswith("slice:")],
        "flips": verdict["flips"] or Json(),
        "captions": facts.flip_captions(content, content.flips_image_ids)[:MOST_IMAGES],
        "texts": [_shortened(text) for text in content.flips_texts[:MOST_IMAGES]],
        "text_captions": facts.flip_captions(content, content.flips_text_ids)[:MOST_IMAGES],
        "pictures": _pictures(content),
        "slices": slices,
        "robust": robustness(content),
        "slice_span": _span(slices),
        "strip": charts.interval_cell,
        "latency": _latency_charts(content),
        "times": times,
        "largest_ms": max((max(row.before_ms or 0, row.after_ms or 0) for row in times), default=0) or 1,
        "total_ms": sum(row.after_ms or 0 for row in times) or 1,
        "layers": layers,
        "largest_macs": largest,
        "steps": steps,
        "removals": removals(content, steps),
        "machine": (content.comparison["candidate"] or Json())["machine"] or Json(),
        "noise": content.comparison.get("noise_reason") if content.comparison.get("noisy") else None,
        "warnings": _warnings(content),
        "metric_name": next(iter((verdict.get("policy") or {}).get("max_drop") or {}), "score"),
    }


def _headline(content: Content) -> list[Json]:
    """The three or four numbers a reader wants first."""
    rows = {row.name: row for row in facts.side_by_side(content)}
    picked = []
    metrics = (content.comparison.get("candidate") or {}).get("metrics") or {}
    for name in [
        facts.title(next(iter(metrics), "")),
        "File size",
        "Median latency (p50)",
        "Multiply-accumulates",
    ]:
        row = rows.get(name)
        if row is not None and row.change not in ("", units.MISSING):
            picked.append(Json(name=name, value=row.change, detail=f"{row.parent} → {row.light}"))
    return picked


def _latency_charts(content: Content) -> list[Markup]:
    series = []
    for name, style, key in (("Parent", "parent", "baseline"), ("Light", "light", "candidate")):
        latency = (content.comparison.get(key) or {}).get("latency") or {}
        samples = np.array([v for v in latency.get("samples_ms") or [] if number(v) is not None], dtype=float)
        if len(samples) >= 2:
            series.append(charts.Series(name, style, samples))
    if not series:
        return []
    unit = "milliseconds for one call"
    return [charts.histogram(series, unit=unit), charts.ecdf(series, unit=unit)]


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _pictures(content: Content) -> list[str]:
    if content.flips_images is None:
        return []
    return [images.data_uri(image) for image in content.flips_images[:MOST_IMAGES]]


def _span(slices: list[facts.SliceRow]) -> tuple[float, float]:
    """One scale for all slice strips: every bound and limit, and 0."""
    values = [0.0]
    for row in slices:
        for key in ("estimate", "low", "high", "limit"):
            value = number(row.check[key]) if row.check and key in row.check else None
            if value is not None:
                values.append(value)
        values.append(row.light - row.parent)
    low, high = min(values), max(values)
    return (low, high) if high > low else (-1.0, 1.0)


def _warnings(content: Content) -> list[str]:
    found: list[str] = []
    for side in ("baseline", "candidate"):
        for warning in (content.comparison.get(side) or {}).get("warnings") or []:
            if str(warning) not in found:
                found.append(str(warning))
    return found


def _title(name: str) -> str:
    """``budget:p95_ms`` as ``Budget: p95 ms``."""
    text = name.replace("_", " ").replace(":", ": ")
    return text[:1].upper() + text[1:]


def _cell(value: Any) -> str:
    """A per-layer value of any kind, for a table; two numbers with a point are a range."""
    if value is None:
        return units.MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return units.significant(float(value), 4)
    if isinstance(value, list):
        ends = len(value) == 2 and all(isinstance(item, float) for item in value)
        return (" … " if ends else ", ").join(_cell(item) for item in value)
    return str(value)


def _markdown(value: Any) -> str:
    """Text that Markdown shows as it is: markup characters escaped, line breaks gone."""
    text = " ".join(str(value).split())
    for character in "\\`*_{}[]#|~":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
