"""Layers that a runtime has no kernel for in 8 bits, handed to it as the floats they stand for."""

from __future__ import annotations

import logging
from typing import Any, cast

from torch import nn

from lwplugin.quantize.encodings import Groups, Half
from lwplugin.quantize.layers import QUANTIZABLE, QuantLayer
from lwplugin.quantize.packed import PACKABLE, PackedEmbedding, PackedLayer
from lwplugin.quantize.recurrent import PartedRecurrent

_log = logging.getLogger(__name__)
_WITH_KERNELS: tuple[type[PackedLayer], ...] = (PackedEmbedding, *(PACKABLE[kind] for kind in QUANTIZABLE))


def in_float(module: nn.Module, *, also: tuple[type[QuantLayer], ...] = ()) -> nn.Module:
    """``module``, in place, with torch's layers for transposed convolutions and recurrent ones of `int8` or `half`, and
    for integer layers of the types ``also``. Fewer bits stay as they are, for an exporter to refuse."""
    found = [name for name, layer in module.named_modules() if _as_float(layer, also)]
    found = [name for name in found if name.rpartition(".")[0] not in found]
    for name in found:
        layer: Any = module.get_submodule(name)
        if not name:
            return cast(nn.Module, layer.to_float())
        module.set_submodule(name, layer.to_float())
    if found:
        _log.warning(
            "%d layers go as floats: the runtime has no kernel for their kinds in 8 bits", len(found)
        )
    return module


def _as_float(layer: nn.Module, also: tuple[type[QuantLayer], ...]) -> bool:
    if isinstance(layer, PartedRecurrent):
        return all(
            _as_float(part, also) or isinstance(part.encoding, Half) for part in layer.parts().values()
        )
    if not isinstance(layer, PackedLayer) or isinstance(layer, _WITH_KERNELS):
        return isinstance(layer, also)
    return isinstance(layer.encoding, Groups) and layer.encoding.width == 8
