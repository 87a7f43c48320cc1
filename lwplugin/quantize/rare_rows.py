"""Which rows of an embedding table calibration reads, and tables parted by it.

Words are read very unevenly: the fewest of a vocabulary's rows make up nearly all of a text. A bit more for a row that
is read a thousand times takes away a thousand times the noise that it takes away for a row that is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs, call
from lwplugin.model.watching import watching
from lwplugin.quantize.parted import PartedEmbedding, parted

_WORTH_IT = 0.05
"""Of the numbers in all tables: fewer in rare rows, as in a table of positions, are not set apart."""


def set_rare_rows_apart(module: nn.Module, names: Iterable[str], inputs: Iterable[Inputs]) -> list[str]:
    """Parts, in place, each named table of which these inputs leave enough rows unread.

    Returns the ``names``, those of its two parts in a table's place; layers that are no embeddings stay.
    """
    names = list(names)
    tables = {name: layer for name in names if type(layer := module.get_submodule(name)) is nn.Embedding}
    least = _WORTH_IT * sum(table.weight.numel() for table in tables.values())
    found: list[str] = []
    read = _rows_read(module, tables, inputs) if tables else {}
    for name in names:
        rare = int((~read[name]).sum()) * tables[name].embedding_dim if name in tables else 0
        if name and rare >= max(least, 1) and bool(read[name].any()):
            module.set_submodule(name, parted(tables[name], read[name]))
            found += [f"{name}.frequent", f"{name}.rare"]
        else:
            found.append(name)
    return found


@torch.no_grad()
def _rows_read(
    module: nn.Module, tables: Mapping[str, nn.Embedding], inputs: Iterable[Inputs]
) -> dict[str, Tensor]:
    """By table: which of its rows these inputs read, bool [num_embeddings]; streamed."""
    read = {
        name: torch.zeros(table.num_embeddings, dtype=torch.bool, device=table.weight.device)
        for name, table in tables.items()
    }

    def watch(name: str, args: tuple[Any, ...], output: Any) -> None:
        read[name][args[0].reshape(-1).long()] = True

    with watching(module, read, watch):
        for some in inputs:
            call(module, some)
    return read


def bytes_of_places(module: nn.Module) -> int:
    """What parted tables store to say where each row lies."""
    return sum(table.place.nbytes for table in module.modules() if isinstance(table, PartedEmbedding))


def is_rare(module: nn.Module, name: str) -> bool:
    """Whether the layer of this name holds the rare rows of a parted table."""
    owner, _, part = name.rpartition(".")
    return part == "rare" and isinstance(module.get_submodule(owner), PartedEmbedding)
