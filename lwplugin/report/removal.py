"""What each step removed, channel by channel, what that cost every layer, and how sensitive the layers are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from lwplugin.report.curves import Curve, curves, sparkline
from lwplugin.report.inputs import Content, Json, number
from lwplugin.report.layers import StepRow
from lwplugin.report.units import significant

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_BARS = 128
# Relative errors on a page: nothing of the response is left at 1, and below a ten-thousandth nobody sees it.
_LOW, _TOP = 1e-4, 1.0


@dataclass
class Group:
    """One group of units; ``share`` of it went, at which its curve shows ``error``."""

    name: str
    before: Any
    after: Any
    gone: Any
    importance_lost: float | None
    channels: Markup | None = None
    curve: Markup | None = None
    error: float | None = None


@dataclass
class Repaired:
    """Relative squared error of a layer's response after the cut and after its weights were solved anew."""

    name: str
    before: float
    after: float


@dataclass
class Removal:
    """What one step removed; ``sensitivity`` is a chart of all groups, where their errors were recorded, and
    ``at_quarters`` each group's error with a quarter, half and three quarters of it gone, the largest first."""

    step: str
    method: str | None
    groups: list[Group]
    sensitivity: Markup | None = None
    at_quarters: list[tuple[str, list[float]]] = field(default_factory=list)
    repaired: list[Repaired] = field(default_factory=list)


def removals(content: Content, steps: list[StepRow]) -> list[Removal]:
    """One for every step of the history that removed something."""
    found = []
    for entry, step in zip(content.history, steps, strict=True):
        if not step.removed:
            continue
        details = entry["details"] or Json()
        lines = {str(row["name"]): row for row in details.get("sensitivity") or [] if _has_curve(row)}
        found.append(
            Removal(
                step.step,
                step.method,
                [_group(each, lines.get(str(each["name"]))) for each in step.removed],
                _chart(lines, {str(each["name"]): _share(each) for each in step.removed}),
                sorted(
                    ((name, _at_quarters(line)) for name, line in lines.items()), key=lambda row: -row[1][1]
                ),
                _repaired(details),
            )
        )
    return found


def _group(plain: Json, line: Json | None) -> Group:
    gone = plain.get("removed") or []
    share = _share(plain)
    group = Group(
        name=str(plain["name"] or ""),
        before=plain["units_before"],
        after=plain["units_after"],
        gone=len(gone) if isinstance(gone, list) else gone,
        importance_lost=number(plain["importance_lost"]),
        channels=_channels(plain),
    )
    if line is not None and share is not None:
        points = list(zip(line["fractions"], line["errors"], strict=True))
        group.error = float(np.interp(share, line["fractions"], line["errors"]))
        group.curve = sparkline(
            Curve("", "layer", points, [(share, group.error)]),
            y_low=_LOW,
            y_high=_TOP,
            description=f"error of the readers of {group.name} by the fraction removed",
        )
    return group


def _share(plain: Json) -> float | None:
    before, after = number(plain["units_before"]), number(plain["units_after"])
    return None if not before or after is None else 1 - after / before


def _has_curve(row: Json) -> bool:
    fractions, errors = row.get("fractions") or [], row.get("errors") or []
    return len(fractions) == len(errors) > 1 and all(number(v) is not None for v in [*fractions, *errors])


def _chart(lines: dict[str, Json], shares: dict[str, float | None]) -> Markup | None:
    if not lines:
        return None
    drawn = []
    for name, line in lines.items():
        points = list(zip(line["fractions"], line["errors"], strict=True))
        share = shares.get(name)
        marks = [] if share is None else [(share, float(np.interp(share, line["fractions"], line["errors"])))]
        drawn.append(Curve(name, "layer", points, marks))
    return curves(
        drawn,
        x_ticks=[(k / 4, f"{k * 25} %") for k in range(5)],
        y_low=_LOW,
        y_high=_TOP,
        log=True,
        width=560,
        height=230,
        x_name="units removed, cheapest first",
        y_format=lambda value: significant(value, 2),
        description="relative error of what reads each group, by the fraction of its units removed",
    )


def _at_quarters(line: Json) -> list[float]:
    return [float(np.interp(share, line["fractions"], line["errors"])) for share in (0.25, 0.5, 0.75)]


def _repaired(details: Json) -> list[Repaired]:
    rows = []
    for row in details.get("repair") or []:
        before, after = number(row["error_before"]), number(row["error_after"])
        if before is not None and after is not None:
            rows.append(Repaired(str(row["name"]), before, after))
    return rows


def _channels(plain: Json) -> Markup | None:
    """A bar of importance for every unit in its order, and below it which ones went; many units are put
    together in neighbourhoods."""
    importance, gone = plain.get("importance"), plain.get("removed")
    if not isinstance(importance, list) or not isinstance(gone, list) or not importance:
        return None
    values = np.array([number(value) if number(value) is not None else np.nan for value in importance], float)
    if not np.isfinite(values).any() or not all(isinstance(unit, int) for unit in gone):
        return None
    went = np.zeros(len(values))
    went[[unit for unit in gone if 0 <= unit < len(values)]] = 1
    places = np.array_split(np.arange(len(values)), min(len(values), MOST_BARS))
    heights = np.array(
        [np.nanmean(values[each]) if np.isfinite(values[each]).any() else 0 for each in places]
    )
    return _bars(_levels(heights), [float(went[each].mean()) for each in places], str(plain["name"]))


def _levels(heights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Into [0, 1]; the square root keeps small importances visible beside large ones."""
    heights = np.clip(heights, 0, None)
    top = float(heights.max())
    return np.sqrt(heights / top) if top > 0 else heights


def _bars(levels: npt.NDArray[np.float64], went: list[float], name: str) -> Markup:
    width = 256 / len(levels)
    gap = 0.8 if width > 3 else 0.0
    kept: list[str] = []
    lost: list[str] = []
    lane: list[str] = []
    for k, (level, share) in enumerate(zip(levels, went, strict=True)):
        x, height = k * width, max(24 * float(level), 0.6)
        bar = f"M{x:.1f} 24v{-height:.1f}h{width - gap:.1f}v{height:.1f}z"
        (lost if share >= 0.5 else kept).append(bar)
        if share > 0:
            lane.append(
                f'<rect class="gone" x="{x:.1f}" y="26" width="{width - gap:.1f}" height="5" opacity="{share:.2f}"/>'
            )
    spoken = escape(
        f"importance of the units of {name}; {sum(share > 0 for share in went)} places lost units"
    )
    return Markup(
        f'<svg class="channels" viewBox="0 0 256 32" preserveAspectRatio="none" role="img" aria-label="{spoken}">'
        f'<path class="kept" d="{"".join(kept)}"/><path class="gone" d="{"".join(lost)}"/>{"".join(lane)}</svg>'
    )
