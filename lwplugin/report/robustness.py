"""How parent and light hold on corrupted copies of the test: rows and one chart per corruption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lwplugin.data.corruptions import KINDS
from lwplugin.report import units
from lwplugin.report.curves import Curve, curves
from lwplugin.report.inputs import Content, Json, number

if TYPE_CHECKING:
    from markupsafe import Markup


class _Row(Json):
    @property
    def parent(self) -> float | None:
        return number(self["baseline"])

    @property
    def light(self) -> float | None:
        return number(self["candidate"])

    @property
    def difference(self) -> float | None:
        """Light minus parent on the same copy."""
        return None if self.parent is None or self.light is None else self.light - self.parent

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bounds of the difference, where there are any."""
        found = self["difference"] or {}
        low, high = number(found.get("low")), number(found.get("high"))
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True)
class Robustness:
    """``rows`` begin with the clean sample; ``charts`` are (kind, what it does, drawing)."""

    metric: str
    n: int
    confidence: float | None
    """Of the differences' intervals, two-sided; None where there are none."""
    limit: float | None
    """Largest drop that the gate tolerates on a copy; None where it judges the clean test only."""
    rows: list[_Row]
    charts: list[tuple[str, str, Markup]]


def robustness(content: Content) -> Robustness | None:
    """None where no corruption was asked for."""
    found = content.comparison.get("corruptions") or {}
    rows = [_Row(each) for each in found.get("rows") or []]
    if not rows:
        return None
    metric = str(found["metric"])
    scored = all(row.parent is not None for row in rows)
    return Robustness(
        metric=metric if scored else "agreement",
        n=int(rows[0]["n"]),
        confidence=next((float(row["difference"]["confidence"]) for row in rows if row.interval), None),
        limit=number((content.verdict.get("policy") or {}).get("max_drop_corrupted")),
        rows=rows,
        charts=_charts(rows, metric if scored else "agreement", scored),
    )


def _charts(rows: list[_Row], metric: str, scored: bool) -> list[tuple[str, str, Markup]]:
    clean = [row for row in rows if row["severity"] == 0]
    values = [
        value
        for row in rows
        for value in ((row.parent, row.light) if scored else (number(row["agreement"]),))
        if value is not None
    ]
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or 0.05
    drawn = []
    for kind in dict.fromkeys(row["kind"] for row in rows if row["severity"]):
        mine = clean + [row for row in rows if row["kind"] == kind]
        sides = (
            (("parent", lambda row: row.parent), ("light", lambda row: row.light))
            if scored
            else (("light", lambda row: number(row["agreement"])),)
        )
        lines = []
        for style, read in sides:
            points = [(float(row["severity"]), float(read(row) or 0.0)) for row in mine]
            lines.append(Curve(style, style, points, points))
        chart = curves(
            lines,
            x_ticks=[(0.0, "clean"), *((float(k), str(k)) for k in (1, 2, 3, 4, 5))],
            y_low=low - margin,
            y_high=high + margin,
            x_name="severity",
            y_format=lambda value: units.of_score(metric, value).replace(".00 %", " %"),
            description=f"{metric} of parent and light under {kind}, by severity",
        )
        drawn.append((str(kind), KINDS.get(str(kind), ""), chart))
    return drawn
