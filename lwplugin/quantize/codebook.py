"""Look-up tables: the weights of a layer share 2^bits values; indices and tables are all that is stored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lwplugin.errors import MethodError
from lwplugin.model.weight_layout import Layout, layout_of, rows_of
from lwplugin.quantize.account import entry_of
from lwplugin.quantize.base import Method, QuantizeConfig, Selection, fidelity, select_layers
from lwplugin.quantize.calibration import calibration_batches
from lwplugin.quantize.encodings import Codebook
from lwplugin.quantize.input_energy import input_energy
from lwplugin.quantize.packed import PACKED_KINDS, packed_like
from lwplugin.quantize.packing import pack_codes
from lwplugin.quantize.recurrent import matrices_apart
from lwplugin.quantize.shared_values import indices, shared_values
from lwplugin.training.finetune import FinetuneOptions, finetune

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lwplugin.data import Data
    from lwplugin.data.batch import Batch
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress


class CodebookConfig(QuantizeConfig, FinetuneOptions):
    """Options of `codebook`."""

    bits: int = Field(default=4, ge=2, le=8, description="Bits of an index: a table holds 2^bits values.")
    rows_per_table: int | None = Field(
        default=None,
        ge=1,
        description="Output rows that share a table, at least; a layer has one table by default.",
    )
    weighted: bool = Field(
        default=True,
        description="Weigh each weight by the mean square of the input it multiplies on calibration data.",
    )
    seed: int = Field(default=0, ge=0, description="Decides the order of examples in fine-tuning.")


class SharedWeight(nn.Module):
    """A weight read from trainable tables; stands in for a layer's own while the tables are fine-tuned."""

    codes: Tensor

    def __init__(self, codes: Tensor, table: Tensor, layout: Layout) -> None:
        super().__init__()
        self._layout = layout
        self.register_buffer("codes", codes)
        self.table = nn.Parameter(table.clone())

    def forward(self, original: Tensor) -> Tensor:
        """The looked-up weight; ``original`` is not read."""
        parts = self.codes.view(len(self.table), -1).long()
        return self._layout.weight(self.table.gather(1, parts).view(self.codes.shape))


def run(
    light: LightModel, data: Data, config: CodebookConfig, progress: Progress, checkpoint: Path | None = None
) -> LightModel:
    """Cluster, fine-tune the tables where asked, store; the argument is untouched."""
    module = light.copy_module().eval()
    split = data.to_fit()

    def batches() -> Iterator[Batch]:
        return calibration_batches(split, examples=config.examples, batch_size=config.batch_size)

    selection = matrices_apart(module, select_layers(module, next(batches()), config, kinds=PACKED_KINDS))
    energy = input_energy(module, batches(), selection.chosen) if config.weighted else {}
    _share(module, selection, energy, config, progress)
    parent = copy.deepcopy(light.module)
    trained = finetune(
        module, parent, data, config, seed=config.seed, checkpoint=checkpoint, progress=progress
    )
    _store(module, selection)
    found = fidelity(light.module, {"shared": module}, batches(), data.task)["shared"]
    if found.agreement < config.collapse:
        raise MethodError(
            "Sharing weights collapsed the model",
            got=f"{found.agreement:.1%} of the answers agree with the parent's",
            do="give more bits, rows_per_table or finetune_epochs, or lower collapse",
        )
    return light.evolve(
        module, entry_of("codebook", config, light.module, module, selection, found, metrics=trained)
    )


def _share(
    module: nn.Module,
    selection: Selection,
    energy: dict[str, Tensor],
    config: CodebookConfig,
    progress: Progress,
) -> None:
    for done, name in enumerate(selection.chosen):
        layer: Any = module.get_submodule(name)
        rows = rows_of(layer)
        count = _tables(len(rows), config.rows_per_table)
        parts = rows.reshape(count, -1)
        costs = energy[name].reshape(count, -1) if name in energy else [None] * count
        tables = [
            shared_values(part, 2**config.bits, importance=cost)
            for part, cost in zip(parts, costs, strict=True)
        ]
        codes = torch.stack([indices(part, table) for part, table in zip(parts, tables, strict=True)])
        layer.weight.requires_grad_(False)
        parametrize.register_parametrization(
            layer,
            "weight",
            SharedWeight(codes.view(rows.shape), torch.stack(tables), layout_of(layer)),
            unsafe=True,
        )
        progress("cluster", done + 1, len(selection.chosen))


@torch.no_grad()
def _store(module: nn.Module, selection: Selection) -> None:
    for name in selection.chosen:
        layer: Any = module.get_submodule(name)
        shared = layer.parametrizations.weight[0]
        tables, bits = shared.table.shape[0], (shared.table.shape[1] - 1).bit_length()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        made = packed_like(layer, Codebook(bits, tables))
        made.store(codes=pack_codes(shared.codes, bits), table=shared.table.detach())
        module.set_submodule(name, made)


def _tables(rows: int, rows_per_table: int | None) -> int:
    """The most tables of equally many rows, each of at least ``rows_per_table``."""
    if rows_per_table is None:
        return 1
    return max(n for n in range(1, rows + 1) if rows % n == 0 and (n == 1 or rows // n >= rows_per_table))


METHOD = Method(
    "codebook",
    CodebookConfig,
    run,
    "weights look their value up in a table of 2^bits shared ones",
    resumes=True,
)
