"""Parent and light model side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lwplugin.cli.output import human_bytes, human_count, table


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


_LABELS: dict[str, tuple[str, Callable[[float], str]]] = {
    "size_bytes": ("size", human_bytes),
    "macs": ("MACs", human_count),
    "params": ("parameters", human_count),
    "p50_ms": ("p50 latency", _milliseconds),
    "p95_ms": ("p95 latency", _milliseconds),
    "peak_memory_bytes": ("peak memory", human_bytes),
}


def target_table(target: str, summary: Mapping[str, Any]) -> str:
    """The end of a run for one target, as text."""
    lines = [f"{target}: {summary['verdict'].upper()}. {summary['reason'] or ''}".rstrip()]
    if summary["numbers"] is not None:
        lines.append(table(_rows(summary)))
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    registration = summary["registration"]
    if registration is not None:
        new = "" if registration["created"] else " (was there already)"
        alias = f", alias {registration['alias']}" if registration["alias"] else ""
        lines.append(f"registered as {registration['uri']}{alias}{new}")
    if summary["report"] is not None:
        lines.append(f"report: {summary['report']}/report.html")
    return "\n".join(lines)


def _rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    numbers = summary["numbers"]
    parent, light = numbers["parent"], numbers["light"]
    bounds = {check["metric"]: check for check in summary["checks"] if check["name"] == check["metric"]}
    rows: list[tuple[str, ...]] = [("", "parent", "light", "")]
    for name, value in parent.items():
        if value is None or light.get(name) is None or (name in _LABELS and not light[name]):
            continue
        if name in _LABELS:
            label, show = _LABELS[name]
            rows.append((label, show(value), show(light[name]), f"{value / light[name]:.2f}x"))
        else:
            rows.append((name, f"{value:.4f}", f"{light[name]:.4f}", _bound(bounds.get(name))))
    speed = numbers["speedup"]
    interval = f"{speed['low']:.2f} to {speed['high']:.2f}" if _finite(speed) else "not bounded"
    rows.append(("speed-up", "", f"{speed['estimate']:.2f}x", numbers["noise"] or interval))
    return rows


def _bound(check: Mapping[str, Any] | None) -> str:
    """What the gate knows about the change: its estimate and the bound it was judged on."""
    if check is None or check["estimate"] is None or check["low"] is None:
        return ""
    return f"{check['estimate']:+.4f}, at worst {check['low']:+.4f} (n={check['n']})"


def _finite(interval: Mapping[str, Any]) -> bool:
    return isinstance(interval["high"], int | float) and isinstance(interval["low"], int | float)
