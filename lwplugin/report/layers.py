"""Every layer before and after, from the cost models and from what each step recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lwplugin.report.inputs import Content, Json, number


@dataclass
class LayerRow:
    """One layer; None where it is not known or not there."""

    name: str
    kind_before: str | None = None
    kind_after: str | None = None
    macs_before: float | None = None
    macs_after: float | None = None
    params_before: float | None = None
    params_after: float | None = None
    size_before: float | None = None
    size_after: float | None = None
    shape_before: str | None = None
    shape_after: str | None = None

    @property
    def changed(self) -> bool:
        return (
            self.shape_before != self.shape_after
            or self.params_before != self.params_after
            or self.macs_before != self.macs_after
            or self.kind_before != self.kind_after
        )


@dataclass
class StepRow:
    """One step of the history with what it removed, what it left alone, and its own per-layer numbers."""

    step: str
    method: str | None
    seed: int | None
    config: Json
    metrics: Json
    removed: list[Json] = field(default_factory=list)
    left_alone: list[Json] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    layers: list[Json] = field(default_factory=list)


_BEFORE_AFTER = {
    "name",
    "type",
    "params_before",
    "params_after",
    "macs_before",
    "macs_after",
    "shape_before",
    "shape_after",
    "parts",
}


def layer_rows(content: Content) -> list[LayerRow]:
    """Layers with parameters or MACs, in the parent's order; new ones last."""
    rows: dict[str, LayerRow] = {}
    whole_of = _wholes(content)
    for when, cost in (("before", content.cost_before), ("after", content.cost_after)):
        for layer in cost.get("layers") or []:
            if not (number(layer.get("params")) or number(layer.get("macs"))):
                continue
            name = str(layer["name"])
            if when == "after" and name in whole_of:
                _add_part(rows.setdefault(whole_of[name], LayerRow(whole_of[name])), layer)
                continue
            row = rows.setdefault(name, LayerRow(name))
            setattr(row, f"kind_{when}", layer.get("kind"))
            setattr(row, f"macs_{when}", number(layer.get("macs")))
            setattr(row, f"params_{when}", number(layer.get("params")))
            setattr(row, f"size_{when}", number(layer.get("size_bytes")))
    from_cost = bool(rows)
    first_seen: set[str] = set()
    for entry in content.history:
        for layer in _layers_of(entry):
            name = str(layer["name"])
            if from_cost and name not in rows:
                continue
            row = rows.setdefault(name, LayerRow(name))
            if name not in first_seen and "shape_before" in layer:
                first_seen.add(name)
                row.shape_before = _shape(layer["shape_before"])
                if not from_cost:
                    row.params_before = number(layer.get("params_before"))
                    row.macs_before = number(layer.get("macs_before"))
                    row.kind_before = layer.get("type")
            if "shape_after" in layer:
                row.shape_after = _shape(layer["shape_after"])
            if not from_cost:
                row.params_after = number(layer.get("params_after", row.params_after))
                row.macs_after = number(layer.get("macs_after", row.macs_after))
                row.kind_after = layer.get("type", row.kind_after)
    return list(rows.values())


def _wholes(content: Content) -> dict[str, str]:
    """Name of a part → the layer that became a product of its parts."""
    return {
        str(part): str(layer["name"])
        for entry in content.history
        for layer in _layers_of(entry)
        for part in layer.get("parts") or []
    }


def _add_part(row: LayerRow, part: Json) -> None:
    """A product is one row: its parts' kinds and costs together."""
    row.kind_after = f"{row.kind_after} · {part.get('kind')}" if row.kind_after else part.get("kind")
    for own, theirs in (("macs_after", "macs"), ("params_after", "params"), ("size_after", "size_bytes")):
        setattr(row, own, (getattr(row, own) or 0) + (number(part.get(theirs)) or 0))


def step_rows(content: Content) -> list[StepRow]:
    """The history, each step with what its details say."""
    rows = []
    for entry in content.history:
        details = entry["details"] or Json()
        layers = [
            Json({"name": layer["name"], **{k: v for k, v in layer.items() if k not in _BEFORE_AFTER}})
            for layer in _layers_of(entry)
        ]
        columns: list[str] = []
        for layer in layers:
            columns += [key for key, value in layer.items() if key not in columns and _is_cell(key, value)]
        rows.append(
            StepRow(
                step=str(entry.get("step", "step")),
                method=entry.get("method"),
                seed=entry.get("seed"),
                config=Json({k: v for k, v in (entry["config"] or {}).items() if v not in (None, [], {})}),
                metrics=Json({k: v for k, v in (entry["metrics"] or {}).items() if v is not None}),
                removed=[one for one in _dicts(details.get("removed")) if _is_removed(one)],
                left_alone=[*_dicts(details.get("left_alone")), *_dicts(details.get("skipped"))],
                columns=columns,
                layers=layers if columns else [],
            )
        )
    return rows


def _is_removed(group: Json) -> bool:
    units = group.get("removed")
    before, after = group.get("units_before"), group.get("units_after")
    return (
        bool(units)
        or (before is not None and before != after)
        or not {"removed", "units_before"} & set(group)
    )


def _is_cell(key: str, value: Any) -> bool:
    """Whether a per-layer value fits a table's cell: a scalar, or a short list such as a range."""
    if key == "name":
        return False
    if isinstance(value, list):
        return len(value) <= 4 and all(not isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def _layers_of(entry: Json) -> list[Json]:
    return [one for one in _dicts((entry.get("details") or {}).get("layers")) if "name" in one]


def _dicts(value: Any) -> list[Json]:
    """Lists of objects as they are; a mapping of name → reason as objects; anything else is empty."""
    if isinstance(value, dict):
        return [
            Json(item | {"name": name} if isinstance(item, dict) else {"name": name, "reason": item})
            for name, item in value.items()
        ]
    if isinstance(value, list):
        return [item if isinstance(item, Json) else Json({"name": str(item)}) for item in value]
    return []


def _shape(value: Any) -> str | None:
    if isinstance(value, list):
        return "×".join(str(item) for item in value)
    return None if value is None else str(value)
