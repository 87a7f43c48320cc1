"""From inputs to the rows of the page: parent and light side by side, checks, slices, flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lwplugin.measure.layer_times import LayerTime, layer_times
from lwplugin.report import units
from lwplugin.report.inputs import Content, Json, number

ACTIVE_STATUSES = ("pass", "fail", "inconclusive", "error")


@dataclass(frozen=True)
class SideRow:
    """One line of the side-by-side table."""

    name: str
    parent: str
    light: str
    change: str
    parent_note: str = ""
    light_note: str = ""
    verdict: str = ""  # better, worse or empty: how the change cell is coloured


@dataclass(frozen=True)
class SliceRow:
    """A slice value with its scores and its check, where the gate made one."""

    column: str
    value: str
    n: int
    parent: float
    light: float
    lost: int
    gained: int
    changed: int | None
    check: Json | None


def side_by_side(content: Content) -> list[SideRow]:
    """Score, cost, size, speed, memory, energy; what is not known is left out or says why."""
    before, after = content.comparison["baseline"] or Json(), content.comparison["candidate"] or Json()
    rows = [*_scores(content, before, after), *_costs(content, before, after)]
    for name, key in (("Median latency (p50)", "p50"), ("Tail latency (p95)", "p95")):
        rows += _latency(name, key, before, after)
    rows += _throughput(content, before, after)
    rows += _plain_row("Load time", "load_ms", before, after, "faster", "slower")
    cold, colder = (Json(side.get("cold_start") or {}) for side in (before, after))
    rows += _plain_row("Cold start", "total_ms", cold, colder, "faster", "slower")
    rows += _plain_row("Peak memory", "peak_memory_bytes", before, after, "smaller", "larger")
    if before or after:
        rows.append(
            SideRow(
                "Energy per inference", *_energy_cells(before, after), change=_energy_change(before, after)
            )
        )
    rows += _fidelity(before, after)
    if after.get("runtime"):
        rows.append(SideRow("Format and runtime", _runtime(before), _runtime(after), ""))
    return rows


def _scores(content: Content, before: Json, after: Json) -> list[SideRow]:
    rows = []
    old, new = before.get("metrics") or {}, after.get("metrics") or {}
    for metric in [*old, *(name for name in new if name not in old)]:
        a, b = number(old.get(metric)), number(new.get(metric))
        check = next((c for c in content.verdict.get("checks", []) if c["name"] == metric), None)
        note = _bound_note(metric, check)
        difference = None if a is None or b is None else b - a
        rows.append(
            SideRow(
                title(metric),
                units.of_score(metric, a),
                units.of_score(metric, b),
                units.of_difference(metric, difference),
                light_note=note,
            )
        )
    agreement = next((c for c in content.verdict.get("checks", []) if c["name"] == "agreement"), None)
    if agreement and number(agreement.get("estimate")) is not None:
        low = number(agreement.get("low"))
        note = "" if low is None else f"at least {units.of_score('agreement', low)}"
        rows.append(
            SideRow(
                "Same answer as parent", "", units.of_score("agreement", agreement["estimate"]), "", "", note
            )
        )
    return rows


def title(metric: str) -> str:
    """A metric's name as a heading."""
    known = {"ece": "Calibration error (ECE)", "mae": "Mean absolute error", "mse": "Mean squared error"}
    return known.get(metric, metric.replace("_", " ").capitalize())


def _bound_note(metric: str, check: Json | None) -> str:
    low = None if check is None else number(check.get("low"))
    if check is None or low is None:
        return ""
    n = check.get("n")
    shown = units.of_difference(metric, low)
    return f"difference at worst {shown}" + (f", n = {n:,}" if isinstance(n, int) else "")


def _costs(content: Content, before: Json, after: Json) -> list[SideRow]:
    rows = _plain_row("File size", "size_bytes", before, after, "smaller", "larger")
    rows += _plain_row("Compressed size", "compressed_bytes", before, after, "smaller", "larger")
    for name, key in (("Multiply-accumulates", "macs"), ("Parameters", "params")):
        rows += _plain_row(name, key, content.cost_before, content.cost_after, "fewer", "more")
    return rows


def _plain_row(name: str, key: str, before: Json, after: Json, smaller: str, larger: str) -> list[SideRow]:
    # Nothing real has no size, no parameters and no cost: a zero is a count that was not taken.
    a, b = number(before.get(key)) or None, number(after.get(key)) or None
    if a is None and b is None:
        return []
    change = units.change(a, b, smaller=smaller, larger=larger)
    cells = (units.of_metric(key, a), units.of_metric(key, b))
    return [SideRow(name, *cells, change, verdict=_better(change, smaller, larger))]


def _latency(name: str, key: str, before: Json, after: Json) -> list[SideRow]:
    a, b = Json(before.get("latency") or {}), Json(after.get("latency") or {})
    old, new = number(a.get(f"{key}_ms")), number(b.get(f"{key}_ms"))
    if old is None and new is None:
        return []
    change = units.change(old, new, smaller="faster", larger="slower")
    return [
        SideRow(
            name,
            units.of_metric("p_ms", old),
            units.of_metric("p_ms", new),
            change,
            _interval_note(a, key),
            _interval_note(b, key),
            _better(change, "faster", "slower"),
        )
    ]


def _throughput(content: Content, before: Json, after: Json) -> list[SideRow]:
    """Offline, in examples a second; the change is the interleaved ratio where there is one."""
    sides = [side.get("throughput") or {} for side in (before, after)]
    values = [number(side.get("examples_per_s")) for side in sides]
    if values == [None, None]:
        return []
    cells = [units.MISSING if value is None else f"{units.significant(value)} /s" for value in values]
    notes = [f"batches of {side['batch']}" if side.get("batch") else "" for side in sides]
    ratio = number((content.comparison.get("throughput_speedup") or {}).get("estimate"))
    return [
        SideRow(
            "Offline throughput",
            cells[0],
            cells[1],
            "" if ratio is None else f"{units.significant(ratio)}×",
            notes[0],
            notes[1],
            "" if ratio is None else "better" if ratio > 1 else "worse",
        )
    ]


def layer_times_of(content: Content) -> list[LayerTime]:
    """The time of every layer in both files, from their profiles."""
    sides = (content.comparison.get(side) or {} for side in ("baseline", "candidate"))
    return layer_times(*(side.get("profile") for side in sides))


def _interval_note(latency: Json, key: str) -> str:
    low, high = number(latency.get(f"{key}_low_ms")), number(latency.get(f"{key}_high_ms"))
    if low is None and high is None:
        return ""
    top = units.significant(high) if high is not None else "not bounded"
    return f"{units.significant(low or 0.0)} to {top}"


def _energy_cells(before: Json, after: Json) -> tuple[str, str]:
    first, second = (_energy(side) for side in (before, after))
    return first, second


def _energy(side: Json) -> str:
    energy = side.get("energy") or {}
    joules = number(energy.get("joules_per_inference"))
    if joules is not None:
        return units.of_metric("energy_j", joules)
    reason = energy.get("reason")
    return f"unavailable: {reason}" if reason else "unavailable"


def _energy_change(before: Json, after: Json) -> str:
    a, b = (number((side.get("energy") or {}).get("joules_per_inference")) for side in (before, after))
    return "" if a is None or b is None else units.change(a, b, smaller="less", larger="more")


def _runtime(side: Json) -> str:
    if not side:
        return units.MISSING
    parts = [side.get("format"), f"{side.get('runtime', '')} {side.get('runtime_version', '')}".strip()]
    threads, batch = side.get("threads"), side.get("batch")
    parts.append(f"{threads} thread{'s' if threads != 1 else ''}, batch {batch}" if threads else None)
    return ", ".join(str(part) for part in parts if part)


def _better(change: str, smaller: str, larger: str) -> str:
    return "better" if change.endswith(smaller) else "worse" if change.endswith(larger) else ""


def _fidelity(before: Json, after: Json) -> list[SideRow]:
    """Kernel error told from model error: the runtime beside torch, and beside a float run of its graph."""
    rows = []
    for name, *path in (
        ("Outputs beside the torch model (SQNR)", "parity", "sqnr_db"),
        ("Kernels beside the float simulation (SQNR)", "kernel_sqnr_db"),
    ):
        old, new = (_decibels(side, path) for side in (before, after))
        if units.MISSING not in {old, new} or old != new:
            rows.append(SideRow(name, old, new, change=" "))
    # The simulation may have seen only the first of the examples: only its gap speaks of the same ones.
    for metric, value in list((after.get("simulation") or {}).items())[:1]:
        gap = number((after.get("kernel_gap") or {}).get(metric))
        note = "" if gap is None else f"real kernels {units.of_difference(metric, -gap)} on the same examples"
        shown = units.of_score(metric, number(value))
        rows.append(SideRow(f"{title(metric)} of the graph simulated in float", "", shown, " ", "", note))
    return rows


def _decibels(side: Json, path: list[str]) -> str:
    value: Any = side
    for key in path:
        value = (value or {}).get(key)
    return "identical" if value == "Infinity" else units.of_metric("sqnr_db", number(value))


def speedup_of(content: Content) -> str:
    """The speed-up over the parent with its interval, as one phrase; empty where it was not measured."""
    interval = content.comparison.get("speedup") or {}
    estimate, low, high = (number(interval.get(key)) for key in ("estimate", "low", "high"))
    if estimate is None:
        return ""
    span = "" if low is None or high is None else f" ({units.significant(low)} to {units.significant(high)})"
    return f"{units.significant(estimate)}×{span}"


def slice_rows(content: Content) -> list[SliceRow]:
    """Every value of every slice column, with its check where the gate judged it."""
    old, new = content.scores.get("baseline_scores"), content.scores.get("candidate_scores")
    if old is None or new is None or len(old) != len(new):
        return []
    agreement = content.scores.get("agreement")
    checks = {check["name"].rpartition(":")[0]: check for check in content.verdict.get("checks", [])}
    rows = []
    for key in sorted(name for name in content.scores if name.startswith("slice_")):
        column, values = key.removeprefix("slice_"), content.scores[key]
        for value in np.unique(values):
            mask = values == value
            a, b = old[mask], new[mask]
            rows.append(
                SliceRow(
                    column=column,
                    value=str(value),
                    n=int(mask.sum()),
                    parent=float(a.mean()),
                    light=float(b.mean()),
                    lost=int((b < a).sum()),
                    gained=int((b > a).sum()),
                    changed=None if agreement is None else int((agreement[mask] < 1).sum()),
                    check=checks.get(f"slice:{column}={value}"),
                )
            )
    return rows


def flip_captions(content: Content, examples: Sequence[int]) -> list[Json]:
    """For every example: its id, and what parent and candidate answered, in words where labels are known."""
    ids = content.scores.get("ids")
    place = {} if ids is None else {int(i): k for k, i in enumerate(ids)}
    captions = []
    for example in examples:
        row = place.get(example)
        captions.append(
            Json(
                id=example,
                parent=_answer(content, "baseline_predictions", row),
                light=_answer(content, "candidate_predictions", row),
                truth=_answer(content, "slice_label", row),
                kind=_kind(content, row),
            )
        )
    return captions


def _kind(content: Content, row: int | None) -> str:
    old, new = content.scores.get("baseline_scores"), content.scores.get("candidate_scores")
    if row is None or old is None or new is None:
        return ""
    return "lost" if new[row] < old[row] else "gained" if new[row] > old[row] else ""


def _answer(content: Content, name: str, row: int | None) -> str:
    values = content.scores.get(name)
    if row is None or values is None or values.ndim != 1 or row >= len(values):
        return ""
    value: Any = values[row].item() if isinstance(values[row], np.generic) else values[row]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(content.labels):
        return content.labels[value]
    return units.significant(value) if isinstance(value, float) else str(value)
