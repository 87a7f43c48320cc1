from __future__ import annotations

import light_nets
import pytest
import torch
from torch import nn
from torch.nn import functional

from lwplugin.errors import ModelError
from lwplugin.model import cost, light


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class Functions(nn.Module):
    """Products outside any layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.scaled_dot_product_attention(x, x, x)
        return (
            torch.einsum("bhij,bhkj->bhik", y, y) @ y
            + functional.conv1d(y[:, 0], torch.ones(5, 5, 1))[:, None]
        )


IMAGE = torch.randn(3, 4, 9, 9)
WORDS = torch.randn(2, 7, 16)
_ATTENTION = 4 * 7 * 16 * 16 + 2 * 7 * 7 * 16


@pytest.mark.parametrize(
    ("module", "inputs", "macs", "params"),
    [
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), IMAGE, 8 * 4 * 9 * 25, 8 * 4 * 9 + 8),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), IMAGE, 4 * 9 * 49, 36),
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2), IMAGE, 8 * 2 * 9 * 25, 8 * 2 * 9 + 8),
        (nn.Conv1d(4, 8, 3), IMAGE[..., 0], 8 * 4 * 3 * 7, 8 * 4 * 3 + 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), IMAGE, 81 * 4 * 6 * 9, 4 * 6 * 9 + 6),
        (nn.Linear(16, 5), WORDS, 7 * 16 * 5, 16 * 5 + 5),
        (nn.Bilinear(3, 4, 5), (torch.randn(2, 3), torch.randn(2, 4)), 3 * 4 * 5, 65),
        (nn.LSTM(16, 6, 2, batch_first=True, bidirectional=True), WORDS, 7 * 2 * 24 * (22 + 18), None),
        (nn.GRU(16, 6, batch_first=True), WORDS, 7 * 18 * 22, 18 * 22 + 36),
        (SelfAttention(), WORDS, _ATTENTION, None),
        (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), WORDS, _ATTENTION + 2 * 7 * 16 * 32, None),
        (Functions(), torch.randn(2, 3, 5, 5), 3 * 4 * 125 + 125, 0),
        (nn.Embedding(9, 4), torch.zeros(2, 3, dtype=torch.long), 0, 36),
        (nn.BatchNorm2d(4), IMAGE, 0, 8),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_macs_and_params_agree_with_paper(
    module: nn.Module, inputs: object, macs: int, params: int | None
) -> None:
    found = cost(module, inputs)  # type: ignore[arg-type]
    assert found.macs == macs
    assert found.params == (sum(p.numel() for p in module.parameters()) if params is None else params)
    assert sum(layer.macs for layer in found.layers) == found.macs


def test_each_layer_has_its_own_share() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3))
    found = cost(net, IMAGE)
    assert [(layer.name, layer.kind) for layer in found.layers] == [
        *(("0", "Conv2d"), ("1", "BatchNorm2d"), ("2", "ReLU"), ("3", "Flatten"), ("4", "Linear"))
    ]
    assert found.layer("0").out_shape == (1, 8, 7, 7)
    assert found.layer("1").size_bytes == 4 * 8 * 4 + 8
    assert found.size_bytes == sum(layer.size_bytes for layer in found.layers)


def test_tied_weights_and_shared_modules_hold_their_bytes_once() -> None:
    tied = light_nets.Tied()
    found = cost(tied, torch.zeros(1, 3, dtype=torch.long))
    assert found.params == sum(p.numel() for p in tied.parameters())
    layer = nn.Linear(4, 4)
    twice = cost(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4))
    assert (twice.params, twice.macs) == (20, 32)


def test_dtype_decides_bytes() -> None:
    assert cost(nn.Linear(4, 4).half(), torch.zeros(1, 4).half()).size_bytes == 40


def test_module_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost(net, IMAGE)
    assert net[0].training
    assert not net[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net._forward_hooks
    assert not net[0]._forward_pre_hooks


def test_wrong_input_is_an_error_and_leaves_no_hooks() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ModelError, match="does not run on the examples"):
        cost(net, torch.zeros(1, 5))
    assert not net[0]._forward_hooks
    assert net.training


def test_texts_longer_than_the_model_has_positions_are_told_how_long_they_may_be() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    net = transformers.BertModel(transformers.BertConfig(vocab_size=9, max_position_embeddings=6, **sizes))
    with pytest.raises(ModelError, match=r"give at most 6 tokens.*data\.max_length"):
        cost(net, {"input_ids": torch.ones(1, 7, dtype=torch.int64)})


def test_light_model_knows_its_cost() -> None:
    net = light(nn.Sequential(nn.Linear(4, 3)))
    assert net.cost(torch.zeros(2, 4)).macs == 12
