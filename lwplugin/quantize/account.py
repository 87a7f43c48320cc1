"""The history entry of methods that store packed weights: bits and fidelity, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lwplugin.quantize.base import Fidelity, QuantizeConfig, Selection
from lwplugin.quantize.packed import PackedLayer
from lwplugin.quantize.parted import PartedEmbedding
from lwplugin.quantize.scheme import sqnr_db

if TYPE_CHECKING:
    from lwplugin.model.bundle import HistoryEntry


def packed_report(name: str, module: nn.Module, reference: nn.Module) -> dict[str, Any]:
    """One row of the history's layer table: a packed layer of ``module`` beside the float one of ``reference``.

    A table in two parts is one row, with the bits of its frequent rows and of its rare ones.
    """
    layer: Any = module.get_submodule(name)
    owner, _, part = name.rpartition(".")
    float_layer: Any = getattr(reference.get_submodule(owner), part)
    given = float_layer if isinstance(float_layer, Tensor) else float_layer.weight
    if isinstance(layer, PartedEmbedding):
        parts = (layer.frequent, layer.rare)
        stored = sum(part.bits_per_weight * math.prod(part.weight_shape) for part in parts)
        return {
            "name": name,
            "type": type(layer).__name__,
            "parts": [f"{name}.frequent", f"{name}.rare"],
            "frequent_rows": layer.frequent_rows,
            "weight_bits": [part.encoding.bits for part in parts],
            "stored_bits": round((stored + 8 * layer.place.nbytes) / given.numel(), 2),
            "weight_sqnr_db": round(sqnr_db(given, layer.weight), 2),
        }
    assert isinstance(layer, PackedLayer)
    return {
        "name": name,
        "type": type(layer).__name__,
        "weight_bits": layer.encoding.bits,
        "stored_bits": round(layer.bits_per_weight, 2),
        "weight_sqnr_db": round(sqnr_db(given, layer.weight), 2),
    }


def entry_of(
    method: str,
    config: QuantizeConfig,
    reference: nn.Module,
    module: nn.Module,
    selection: Selection,
    found: Fidelity,
    *,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    metrics: Mapping[str, float] | None = None,
    details: Mapping[str, Any] | None = None,
) -> HistoryEntry:
    """What was done to each chosen layer of ``module`` beside its float layer in ``reference``.

    ``rows`` adds columns to a layer's row, ``metrics`` and ``details`` to the entry.
    """
    from lwplugin.model.bundle import HistoryEntry

    layers = [
        {**packed_report(name, module, reference), **(rows or {}).get(name, {})} for name in selection.chosen
    ]
    return HistoryEntry(
        step="quantize",
        method=method,
        config=config.model_dump(mode="json"),
        metrics={
            "calibration_agreement": found.agreement,
            "calibration_sqnr_db": found.output_sqnr_db,
            **(metrics or {}),
        },
        seed=getattr(config, "seed", None),
        details={
            "layers": layers,
            "skipped": [{"name": name, "reason": reason} for name, reason in selection.skipped.items()],
            **(details or {}),
        },
    )
