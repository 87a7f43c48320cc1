"""Two profiles side by side: the time of every layer, before and after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LAYOUT = re.compile(r"^(Reorder\w*|Transpose|Reshape|Flatten|Squeeze|Unsqueeze)$")
_VARIANT = re.compile(r"^(QLinear|Fused|Q(?=[A-Z]))")


@dataclass
class LayerTime:
    """One layer, or all kernels of one kind that belong to none; None where a side has no such kernels."""

    name: str
    before_ms: float | None = None
    after_ms: float | None = None
    kinds: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return ", ".join(self.kinds)


def layer_times(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[LayerTime]:
    """Rows in the order of execution, from two ``Profile`` documents of which either may be missing.

    Kernels without a layer are put together by what they do: (layout) for moving values about, (Add), ….
    """
    rows: dict[str, LayerTime] = {}
    for side, profile in (("before_ms", before), ("after_ms", after)):
        for kernel in (profile or {}).get("kernels") or []:
            name = kernel.get("layer") or _group(str(kernel["kind"]))
            row = rows.setdefault(name, LayerTime(name))
            setattr(row, side, (getattr(row, side) or 0.0) + float(kernel["ms"]))
            if kernel["kind"] not in row.kinds:
                row.kinds.append(str(kernel["kind"]))
    return [
        *(row for row in rows.values() if row.name[0] != "("),
        *(r for r in rows.values() if r.name[0] == "("),
    ]


def _group(kind: str) -> str:
    return "(layout)" if _LAYOUT.match(kind) else f"({_VARIANT.sub('', kind)})"
