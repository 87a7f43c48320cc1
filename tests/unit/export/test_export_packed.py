from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from test_export_onnx import operators
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.model.bundle import light
from lwplugin.quantize import quantize
from lwplugin.quantize.encodings import Codebook, Encoding, Groups, Half, Signs
from lwplugin.quantize.packed import PACKABLE, packed_like
from lwplugin.quantize.packing import pack_codes


class Mixed(nn.Module):
    """Tokens [n, 6] → [n, 4] through an embedding, both kinds of convolution and a linear layer on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.along = nn.Conv1d(32, 32, 3, padding="same", groups=2)
        self.over = nn.Conv2d(1, 3, (3, 5), stride=(1, 2), padding=(1, 2))
        self.inner = nn.Linear(48, 32)
        self.head = nn.Linear(32, 4, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.along(self.table(tokens).transpose(1, 2)).transpose(1, 2)
        x = self.over(x[:, None]).permute(0, 2, 1, 3).flatten(2)
        return self.head(torch.relu(self.inner(x)).mean(1))


@pytest.fixture(scope="module")
def tokens() -> Data:
    torch.manual_seed(0)
    x = torch.randint(50, (64, 6)).numpy()
    return from_arrays(calibration=(x, None), test=(x, None), task="classification", duplicates="ignore")


def packed(encoding: Encoding) -> nn.Module:
    torch.manual_seed(0)
    net = Mixed().eval()
    for name, layer in list(net.named_modules()):
        if type(layer) in PACKABLE:
            made = packed_like(layer, encoding)
            for key, tensor in made.stored.items():
                random = torch.randint(256, tensor.shape).to(torch.uint8)
                made.store(
                    **{
                        key: random
                        if tensor.dtype == torch.uint8
                        else torch.rand(tensor.shape) / 2**encoding.bits
                    }
                )
            net.set_submodule(name, made)
    return net


ENCODED = [
    *(Groups(b, 16) for b in range(2, 9)),
    Groups(3, 7),
    *(Codebook(b, 1) for b in range(2, 9)),
    Signs(),
]


@pytest.mark.parametrize("encoding", ENCODED, ids=str)
def test_unpacked_files_answer_as_the_model_at_the_packed_size(
    encoding: Encoding, tokens: Data, tmp_path: Path
) -> None:
    net = packed(encoding)
    exported = export(light(net), tokens, path=tmp_path)
    assert exported.meta["parity"]["max_abs_error"] < 1e-3
    assert exported.scheme["packed_bits"] == [encoding.bits]
    held = {t.name: len(t.raw_data) for t in onnx.load(str(exported.file)).graph.initializer}
    table = sum(
        size for name, size in held.items() if name.startswith("table.weight") and name.endswith("packed")
    )
    # A shorter last group of a row is filled up in the file.
    width = 35 if encoding == Groups(3, 7) else 32
    assert table == pytest.approx(50 * width * encoding.bits / 8, abs=encoding.bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_kernels_are_in_the_file_and_answer_as_the_model(
    bits: int, tokens: Data, tmp_path: Path
) -> None:
    exported = export(light(packed(Groups(bits, 16))), tokens, path=tmp_path, weights="packed")
    kinds = operators(exported.file)
    assert (kinds["MatMulNBits"], kinds["GatherBlockQuantized"]) == (2, 1)
    assert exported.scheme["packed_kernels"] == 3


def test_three_bits_have_no_kernel_and_the_description_says_so(tokens: Data, tmp_path: Path) -> None:
    exported = export(light(packed(Groups(3, 16))), tokens, path=tmp_path, weights="packed")
    assert operators(exported.file)["MatMulNBits"] == 0
    assert exported.scheme["packed_kernels"] == 0


@pytest.mark.parametrize("encoding", [Groups(8, 16), Groups(5, 32), Half("float16")], ids=str)
def test_rows_of_a_table_that_are_never_asked_for_stay_out_of_the_file(
    encoding: Encoding, tokens: Data, tmp_path: Path
) -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.place = nn.Embedding(50, 32), nn.Embedding(500, 32)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return (self.table(tokens) + self.place(torch.arange(2, 2 + tokens.shape[1]))).flatten(1)

    net = Placed().eval()
    made = quantize(net, tokens, method="half") if isinstance(encoding, Half) else None
    if made is None:
        packed_place = packed_like(net.place, encoding)
        codes = torch.randint(2**encoding.bits, (500 * 32,)).to(torch.uint8)
        zero = torch.randint(2**encoding.bits, (500 * packed_place.scale.shape[1],)).to(torch.uint8)
        scale = torch.rand(packed_place.scale.shape)
        packed_place.store(
            codes=pack_codes(codes, encoding.bits), zero=pack_codes(zero, encoding.bits), scale=scale
        )
        net.place = packed_place
        made = light(net)
    exported = export(made, tokens, path=tmp_path)
    assert exported.meta["parity"]["max_abs_error"] < 1e-3
    held = [t for t in onnx.load(str(exported.file)).graph.initializer if 500 in t.dims]
    assert not held
    assert exported.file.stat().st_size < 20_000


def test_tables_of_several_rows_are_looked_up(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made = quantize(trained_net, digits_data, method="codebook", bits=3, rows_per_table=4)
    exported = export(made, digits_data, path=tmp_path)
    assert operators(exported.file)["Gather"] >= 4
