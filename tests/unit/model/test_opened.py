"""Layers of other classes that compute what nn.Linear does, and attention, are opened to every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.model.attention import HeadAttention
from lwplugin.model.linear import as_linear
from lwplugin.quantize import QuantLinear


def texts(n: int = 24) -> Tensor:
    return torch.randint(3, 90, (n, 7), generator=torch.Generator().manual_seed(1))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    made: nn.Module = transformers.GPT2Model(config).eval()
    return made


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "prune": ("prune", {"macs": 0.7}),
    "factorize": ("factorize", {"macs": 0.6}),
    "int8": ("quantize", {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_gpt2_with_its_transposed_weights_is_compressed_as_any_other(name: str) -> None:
    net = gpt2()
    data = from_arrays(
        calibration={"input_ids": texts()}, task={"name": "embedding", "options": {"pooling": "mean"}}
    )
    family, options = METHODS[name]
    light = getattr(lwplugin, family)(net, data, **options)
    kinds = {name: type(layer).__name__ for name, layer in light.module.named_modules()}
    assert "Conv1D" not in kinds.values()
    entry = light.history[-1]
    if family == "quantize":
        assert {"h.0.attn.c_attn", "h.1.mlp.c_proj"} <= {row["name"] for row in entry.details["layers"]}
    else:
        assert entry.metrics["macs"] <= options["macs"] * entry.metrics["macs_before"]
        assert entry.metrics["agreement"] > 0.9
    assert type(net.h[0].attn.c_attn).__name__ == "Conv1D"  # type: ignore[union-attr, index]


class Multiplies(nn.Linear):
    """Computes what nn.Linear does in its own words."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Centred(nn.Linear):
    """Computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight - self.weight.mean(), self.bias)


def test_only_what_computes_the_same_becomes_a_linear_layer() -> None:
    torch.manual_seed(0)
    tied = Multiplies(8, 8)
    net = nn.Sequential(
        Multiplies(6, 8), Centred(8, 8), nn.ReLU(), tied, nn.ReLU(), Multiplies(8, 8), nn.Linear(8, 3)
    )
    net[5].weight = tied.weight
    net.eval()
    x = torch.randn(4, 6)
    expected = net(x)
    as_linear(net, x)
    assert [type(layer) for layer in net] == [
        nn.Linear, Centred, nn.ReLU, Multiplies, nn.ReLU, Multiplies, nn.Linear,
    ]  # fmt: skip
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_convolutions_padded_by_a_word_are_scored_and_factorized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding="same"), nn.ReLU(), nn.Conv2d(16, 16, 3, padding="same", dilation=2), nn.ReLU(),
        nn.Conv2d(16, 16, 2, padding="same"), nn.ReLU(), nn.Conv2d(16, 4, 3, padding="valid"),
    )  # fmt: skip
    data = from_arrays(calibration=torch.randn(24, 2, 8, 8), task="regression")
    light = lwplugin.prune(net, data, macs=0.6)
    cut = {row["name"] for row in light.history[-1].details["removed"] if row["removed"]}
    assert cut == {"0", "4"}  # what reads "2" pads one side only
    light.save(tmp_path / "bundle")
    x = data.example(8)
    with torch.no_grad():
        assert torch.equal(lwplugin.load(tmp_path / "bundle").module(x), light.module(x))
    products = lwplugin.factorize(net, data, macs=0.7).history[-1].details["layers"]
    assert "2" in {row["name"] for row in products}


class Encoder(nn.Module):
    """Torch's own encoder over texts with padding at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(90, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
        self.head = nn.Linear(32, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.head(hidden[:, 0])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture(scope="module")
def padded() -> Data:
    ids = texts()
    mask = (torch.arange(7)[None] < torch.arange(24)[:, None] % 5 + 3).long()
    return from_arrays(calibration={"input_ids": ids * mask, "attention_mask": mask}, task="classification")


@pytest.mark.parametrize("name", METHODS)
def test_attention_is_compressed_with_the_rest_of_an_encoder(
    name: str, encoder: Encoder, padded: Data, tmp_path: Path
) -> None:
    family, options = METHODS[name]
    source = lwplugin.light(encoder, origin=lwplugin.FactoryOrigin("test_opened:Encoder"))
    inputs = padded.example(24)
    assert isinstance(inputs, dict)
    with torch.no_grad():
        # No nested tensors: the same answers where there are texts.
        assert torch.allclose(source.module(**inputs), encoder(**inputs), atol=1e-5)
    light = getattr(lwplugin, family)(source, padded, **options)
    layers = {row["name"] for row in light.history[-1].details["layers"]}
    assert any("self_attn" in name for name in layers)
    light.save(tmp_path / "bundle")
    with torch.no_grad():
        assert torch.equal(lwplugin.load(tmp_path / "bundle").module(**inputs), light.module(**inputs))
    if name == "int8":
        assert lwplugin.export(light, padded, format="onnx", path=tmp_path / "onnx").file.is_file()


def test_attention_that_a_quantization_leaves_alone_is_torchs_own_again(
    encoder: Encoder, padded: Data
) -> None:
    light = lwplugin.quantize(encoder, padded, skip=("encoder.layers.0.self_attn.*",))
    kinds = [type(light.module.get_submodule(f"encoder.layers.{k}.self_attn")) for k in range(2)]
    assert kinds == [nn.MultiheadAttention, HeadAttention]
    assert type(light.module.get_submodule("encoder.layers.1.self_attn.q_proj")) is QuantLinear


class Cross(nn.Module):
    """Queries that come from a layer of their own, so that their width can go too."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 32)
        self.attend = nn.MultiheadAttention(32, 4, kdim=6, vdim=6, batch_first=True)
        self.after = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.attend(self.before(x), x, x)[0].mean(1))


def test_an_attention_may_lose_the_width_of_its_queries_and_of_its_answer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = from_arrays(calibration=torch.randn(24, 5, 6), task="regression")
    source = lwplugin.light(Cross().eval(), origin=lwplugin.FactoryOrigin("test_opened:Cross"))
    light = lwplugin.prune(source, data, shares={"before": 0.25, "attend.out_proj": 0.5})
    attend = light.module.attend
    assert isinstance(attend, HeadAttention)
    assert (attend.embed_dim, attend.out_dim, attend.num_heads) == (8, 16, 4)
    light.save(tmp_path / "bundle")
    x = data.example(8)
    with torch.no_grad():
        assert torch.equal(lwplugin.load(tmp_path / "bundle").module(x), light.module(x))
