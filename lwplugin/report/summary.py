"""report.json: everything the page shows, for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lwplugin.report import facts
from lwplugin.report.inputs import Content, Json
from lwplugin.report.layers import layer_rows

SCHEMA_VERSION = 1


def summary(content: Content) -> Json:
    """Plain JSON; the per-example arrays stay in scores.npz, slices carry their counts."""
    plain: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": content.name,
        "status": content.verdict.get("status"),
        "reason": content.verdict.get("reason"),
        "parent": content.parent,
        "candidate": content.candidate,
        "target": content.target,
        "verdict": content.verdict or None,
        "comparison": content.comparison or None,
        "cost": {"before": content.cost_before or None, "after": content.cost_after or None},
        "layers": [asdict(row) for row in layer_rows(content)],
        "layer_times": [asdict(row) for row in facts.layer_times_of(content)],
        "history": content.history,
        "slices": [asdict(row) for row in facts.slice_rows(content)],
        "recipe": content.recipe,
        "environment": content.environment,
        "notes": content.notes,
    }
    return Json(plain)
