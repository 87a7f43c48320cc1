from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lwplugin.errors import MethodError, ModelError
from lwplugin.model.layers import build, spec_of
from lwplugin.quantize.encodings import ENCODINGS, Codebook, Encoding, Groups, Half, Signs, encoding_of
from lwplugin.quantize.packed import packed_like
from lwplugin.quantize.packing import pack_codes, packed_bytes

LAYERS: dict[str, tuple[Any, Any]] = {
    "linear": (lambda: nn.Linear(24, 10), lambda: torch.randn(4, 24)),
    "linear on sequences": (lambda: nn.Linear(24, 10, bias=False), lambda: torch.randn(4, 7, 24)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 5, stride=2, padding=2), lambda: torch.randn(2, 6, 20)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding="same", dilation=2), lambda: torch.randn(2, 6, 9, 9)),
    "depthwise": (
        lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        lambda: torch.randn(2, 8, 9, 9),
    ),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2, stride=2), lambda: torch.randn(2, 4, 4, 5, 4)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        lambda: torch.randn(2, 4, 3, 5),
    ),
    "transposed1d": (lambda: nn.ConvTranspose1d(6, 8, 4, bias=False), lambda: torch.randn(2, 6, 9)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 2, dilation=2), lambda: torch.randn(2, 4, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(30, 12, padding_idx=0), lambda: torch.randint(30, (2, 5))),
}
ENCODED: list[Encoding] = [
    Half(),
    Half("bfloat16"),
    *(Groups(bits, 8) for bits in (2, 3, 4, 8)),
    Groups(4, 7),
    *(Codebook(bits, 2) for bits in (2, 5, 8)),
    Signs(),
]


def filled(layer: nn.Module, encoding: Encoding) -> Any:
    """A packed layer with random content of every tensor."""
    made = packed_like(layer, encoding)
    for name, tensor in made.stored.items():
        if tensor.dtype == torch.uint8:
            made.store(**{name: torch.randint(256, tensor.shape).to(torch.uint8)})
        else:
            made.store(**{name: torch.randn(tensor.shape)})
    return made


@pytest.mark.parametrize("encoding", ENCODED, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_rebuilds_from_its_spec_and_answers_bit_identically(
    name: str, encoding: Encoding
) -> None:
    torch.manual_seed(0)
    make, example = LAYERS[name]
    x, made = example(), filled(make(), encoding)
    spec = spec_of(made)
    assert spec is not None
    meta = build(spec, device="meta")
    again = build(spec)
    assert {n: t.shape for n, t in meta.state_dict().items()} == {
        n: t.shape for n, t in again.state_dict().items()
    }
    again.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(again(x), made(x))
    assert torch.equal(made.to_float()(x), made(x))
    assert made(x).dtype == torch.float32


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_take_their_true_width(bits: int) -> None:
    made = packed_like(nn.Linear(64, 32), Groups(bits, 32))
    assert made.codes.nbytes == 64 * 32 * bits // 8
    assert made.scale.nbytes == 32 * 2 * 2
    assert made.bits_per_weight == bits + (16 + bits) / 32


def test_the_last_group_of_a_row_may_be_shorter() -> None:
    made = packed_like(nn.Linear(10, 1), Groups(4, 4))
    codes = torch.arange(10).remainder(16)
    zeros = torch.tensor([1, 2, 3])
    made.store(codes=pack_codes(codes, 4), zero=pack_codes(zeros, 4), scale=torch.tensor([[1.0, 2.0, 0.5]]))
    expected = (codes - zeros.repeat_interleave(4)[:10]) * torch.tensor([1.0, 2, 0.5]).repeat_interleave(4)[
        :10
    ]
    assert torch.equal(made.weight[0], expected)


def test_signs_are_one_bit_each() -> None:
    made = packed_like(nn.Linear(40, 8), Signs())
    assert made.codes.nbytes == packed_bytes(320, 1) == 40
    assert set(filled(nn.Linear(40, 1), Signs()).weight.unique().tolist()).__len__() == 2


def test_native_half_layers_compute_in_sixteen_bits() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(5, 64)
    wide, native = packed_like(layer, Half()), packed_like(layer, Half(native=True))
    for made in (wide, native):
        made.store(numbers=layer.weight.detach().half())
    assert not torch.equal(wide(x), native(x))
    assert torch.allclose(wide(x), native(x), atol=5e-3)
    assert torch.allclose(wide(x), layer(x), atol=5e-3)


def test_a_hostile_spec_is_refused() -> None:
    assert set(ENCODINGS) == {"half", "groups", "codebook", "signs"}
    with pytest.raises(ModelError, match="did you mean 'half'"):
        encoding_of({"kind": "haft"})
    with pytest.raises(ModelError, match="cannot have these fields"):
        encoding_of({"kind": "half", "widht": 3})
    with pytest.raises(MethodError, match="no packed form"):
        packed_like(nn.LSTM(3, 3), Half())
