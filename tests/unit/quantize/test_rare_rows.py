from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.errors import RecipeError
from lwplugin.export import export
from lwplugin.quantize import quantize
from lwplugin.quantize.packed import PackedEmbedding, PackedLayer
from lwplugin.quantize.parted import PartedEmbedding, parted

ROWS = 2000


class Words(nn.Module):
    """Tokens [n, 16] → [n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, 32)
        self.positions = nn.Embedding(32, 32)
        self.hidden, self.head = nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(torch.relu(self.hidden(x)).mean(1))


@pytest.fixture(scope="module")
def words() -> tuple[Words, Data, torch.Tensor]:
    """Words as uneven as those of a language: calibration reads a part of the table, texts to come a little more."""
    torch.manual_seed(0)
    often = 1 / torch.arange(1, ROWS + 1)
    tokens = torch.multinomial(often, 192 * 16, replacement=True).view(192, 16)
    data = from_arrays(
        calibration=(tokens[:96].numpy(), None),
        test=(tokens[96:].numpy(), None),
        task="embedding",
        duplicates="ignore",
    )
    return Words().eval(), data, tokens


def noise(model: nn.Module, made: nn.Module, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = model(tokens)
        return float((made(tokens) - wanted).square().sum() / wanted.square().sum())


def test_a_table_in_two_parts_is_the_same_table() -> None:
    torch.manual_seed(0)
    table, frequent = nn.Embedding(50, 8), torch.rand(50) < 0.3
    made, tokens = parted(table, frequent), torch.randint(50, (3, 7))
    assert torch.equal(made(tokens), table(tokens))
    assert torch.equal(made.weight, table.weight)
    assert made.frequent.num_embeddings == int(frequent.sum())


@pytest.mark.parametrize(
    "options",
    [
        {"method": "weight_only", "bits": 4, "embedding_bits": 6, "rare_bits": 3, "group_size": 16},
        {"method": "int8", "embedding_bits": 6, "rare_bits": 3},
    ],
    ids=["weight_only", "int8"],
)
def test_rare_rows_take_the_bits_they_are_told(
    options: dict[str, object], words: tuple[Words, Data, torch.Tensor], tmp_path: Path
) -> None:
    model, data, tokens = words
    made = quantize(model, data, **options)
    table = made.module.table
    assert isinstance(table, PartedEmbedding)
    assert (table.frequent.encoding.bits, table.rare.encoding.bits) == (6, 3)
    assert isinstance(made.module.positions, PackedEmbedding)
    read = np.unique(tokens[:96])
    assert table.frequent_rows == len(read)
    assert int(table.place[read].max()) == len(read) - 1
    row = next(row for row in made.history[-1].details["layers"] if row["name"] == "table")
    assert row["weight_bits"] == [6, 3]
    assert row["frequent_rows"] == len(read)

    made.save(tmp_path / "bundle")
    again = lwplugin.load(tmp_path / "bundle", allow_pickle=True)
    with torch.no_grad():
        assert torch.equal(again.module(tokens), made.module(tokens))
    report = export(made, data, path=tmp_path / "onnx")
    assert report.file.is_file()


def test_chosen_bits_keep_rows_that_are_read_often_and_the_size(
    words: tuple[Words, Data, torch.Tensor],
) -> None:
    model, data, tokens = words
    size = 0.2
    options = {"method": "weight_only", "bits": "auto", "size": size, "group_size": 32}
    made = quantize(model, data, **options)
    table = made.module.table
    assert table.frequent.encoding.bits > table.rare.encoding.bits
    layers = [layer for layer in made.module.modules() if isinstance(layer, PackedLayer)]
    stored = sum(tensor.nbytes for layer in layers for tensor in layer.stored.values())
    floats = sum(4 * layer.weight.numel() for layer in layers)
    assert stored + table.place.nbytes <= size * floats
    whole = quantize(
        model, data, method="weight_only", bits="auto", size=size, group_size=32, embedding_bits=5
    )
    assert isinstance(whole.module.table, PackedEmbedding)
    assert noise(model, made.module, tokens[96:]) < noise(model, whole.module, tokens[96:])


@pytest.mark.parametrize("method", ["weight_only", "int8"])
def test_bits_for_rows_of_tables_that_stay_in_float_are_refused(
    method: str, words: tuple[Words, Data, torch.Tensor]
) -> None:
    model, data, _ = words
    with pytest.raises(RecipeError, match=r"'rare_bits' .* got 3\. Do: .* embeddings=false"):
        quantize(model, data, method=method, embeddings=False, rare_bits=3)
