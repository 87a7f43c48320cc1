from __future__ import annotations

import copy
import json
from collections.abc import Callable

import light_nets
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lwplugin.errors import ModelError
from lwplugin.model.layers import LAYERS
from lwplugin.model.structure import Changes, LayerSpec, Skeleton, apply, build, diff, register_layer, spec_of

LAYER_EXAMPLES: list[nn.Module] = [
    nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=1),
    nn.Conv2d(4, 8, (3, 5), padding="same", padding_mode="reflect", groups=2, bias=False),
    nn.Conv3d(2, 2, 1),
    nn.ConvTranspose1d(3, 4, 2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    nn.Linear(2, 3),
    nn.Linear(2, 3, bias=False),
    nn.BatchNorm1d(3, affine=False),
    nn.BatchNorm2d(3, momentum=None),
    nn.BatchNorm3d(3, track_running_stats=False),
    nn.LayerNorm([3, 4], eps=1e-3),
    nn.LayerNorm(4, bias=False),
    nn.GroupNorm(2, 4),
    nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    nn.RMSNorm(4),
    nn.Embedding(5, 4, padding_idx=1),
    nn.LSTM(3, 4, 2, proj_size=2, batch_first=True),
    nn.GRU(2, 3, bidirectional=True),
    nn.RNN(2, 3, nonlinearity="relu"),
    nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True),
    nn.Identity(),
    nn.Hardtanh(-1, 2),
    nn.ReLU6(),
    nn.PReLU(3),
    nn.LeakyReLU(0.3),
    nn.GELU("tanh"),
    nn.Softmax(-1),
    nn.Dropout(0.3),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.AvgPool2d((2, 1)),
    nn.AdaptiveAvgPool2d((None, 1)),
    nn.Upsample(scale_factor=2),
    nn.ZeroPad2d((1, 0, 2, 0)),
    nn.Flatten(2),
]


@pytest.mark.parametrize("layer", LAYER_EXAMPLES, ids=lambda layer: repr(layer)[:40])
def test_layer_is_rebuilt_from_its_json(layer: nn.Module) -> None:
    spec = spec_of(layer)
    assert spec is not None
    again = build(LayerSpec.model_validate(json.loads(spec.model_dump_json())))
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    assert Skeleton.of(again) == Skeleton.of(layer)


@pytest.mark.parametrize("name", sorted(name for name in LAYERS if hasattr(nn, name)))
def test_every_listed_name_is_torchs(name: str) -> None:
    assert LAYERS[name].path.startswith("torch.nn.modules.")


def _narrow_stem(net: light_nets.Net) -> None:
    net.stem[0] = nn.Conv2d(3, 5, 3, padding=1)
    net.stem[1] = nn.BatchNorm2d(5)
    net.same.in_channels = 5
    net.same.weight = nn.Parameter(torch.zeros(8, 5, 3, 3))


def _mutate_in_place(net: light_nets.Net) -> None:
    net.head.out_features = 2
    net.head.weight = nn.Parameter(net.head.weight[:2].clone())
    net.head.bias = nn.Parameter(net.head.bias[:2].clone())


def _factorize(net: light_nets.Net) -> None:
    net.blocks[0].up = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 16))


def _drop_block(net: light_nets.Net) -> None:
    del net.blocks[0]


def _drop_module(net: light_nets.Net) -> None:
    net.unused = None


def _delete_module(net: light_nets.Net) -> None:
    del net.unused


def _heads(net: light_nets.Net) -> None:
    net.heads, net.sizes, net.attention.num_heads = 1, (6, 4), 1


def _raw_parameters(net: light_nets.Net) -> None:
    net.token = nn.Parameter(torch.zeros(1, 1, 6))
    net.positions = torch.zeros(1, 9)
    net.offset = torch.zeros(6)
    net.attention.in_proj_weight = nn.Parameter(torch.zeros(12, 8))
    net.blocks[1].scale = nn.Parameter(torch.zeros(6))


def _share(net: light_nets.Net) -> None:
    net.blocks[0].down = net.blocks[1].down


def _replace_shared(net: light_nets.Net) -> None:
    net.norm = net.again = nn.GroupNorm(2, 8)


def _unshare(net: light_nets.Net) -> None:
    net.again = nn.LayerNorm(8)


def _reorder_children(net: light_nets.Net) -> None:
    net.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())


def _new_attention(net: light_nets.Net) -> None:
    net.head = nn.Sequential(nn.MultiheadAttention(8, 2))


def _nothing(net: light_nets.Net) -> None:
    pass


CHANGES: list[Callable[[light_nets.Net], None]] = [
    *(_nothing, _narrow_stem, _mutate_in_place, _factorize, _drop_block, _drop_module, _delete_module),
    *(_heads, _raw_parameters, _share, _replace_shared, _unshare, _reorder_children, _new_attention),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("device", [None, "meta"])
def test_changes_rebuild_the_structure(change: Callable[[light_nets.Net], None], device: str | None) -> None:
    origin = light_nets.net()
    skeleton = Skeleton.of(origin)
    changed = copy.deepcopy(origin)
    change(changed)
    changes = diff(skeleton, changed)
    assert bool(changes) == (change is not _nothing)
    changes = Changes.model_validate_json(changes.model_dump_json())
    apply(changes, origin, device=device)
    assert diff(skeleton, origin) == changes
    assert Skeleton.of(origin) == Skeleton.of(changed)


def test_subclass_of_a_listed_layer_stays_itself() -> None:
    net = light_nets.net()
    skeleton = Skeleton.of(net)
    _narrow_stem(net)
    changes = diff(skeleton, net)
    assert set(changes.modules) == {"stem.0", "stem.1"}
    assert changes.attributes == {"same.in_channels": 5}
    assert changes.parameters == {"same.weight": [8, 5, 3, 3]}


def test_root_itself_can_be_replaced_in_place() -> None:
    root = nn.Linear(3, 4)
    changes = diff(Skeleton.of(root), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4)))
    apply(changes, root)
    assert type(root) is nn.Sequential  # type: ignore[comparison-overlap]
    assert root(torch.zeros(1, 3)).shape == (1, 4)


def test_huggingface_conv1d_is_listed() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    spec = spec_of(pytorch_utils.Conv1D(6, 4))
    assert spec == LayerSpec(type="transformers.Conv1D", args={"nf": 6, "nx": 4})
    assert build(spec).weight.shape == (4, 6)


def _other_type(net: light_nets.Net) -> None:
    net.blocks[0].up = light_nets.SameConv(3, 3, 3)


def _stale_attribute(net: light_nets.Net) -> None:
    net.head.weight = nn.Parameter(torch.zeros(2, 8))


def _new_buffer(net: light_nets.Net) -> None:
    net.register_buffer("mask", torch.zeros(3))


def _left_hooks(net: light_nets.Net) -> None:
    prune.l1_unstructured(net.head, "weight", 0.5)


def _float_attribute(net: light_nets.Net) -> None:
    net.heads = 1.5  # type: ignore[assignment]


def _kind(net: light_nets.Net) -> None:
    del net.offset
    net.offset = nn.Parameter(torch.zeros(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_type, r"blocks\.0\.up' is new .* register_layer"),
        (_stale_attribute, r"'head' \(Linear\) holds other tensors .*out_features"),
        (_new_buffer, "new buffer 'mask'"),
        (_left_hooks, "holds other tensors.*remove hooks"),
        (_float_attribute, "'heads' was the integer 2"),
        (_kind, "'offset' was a plain and is now a parameter"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_replayed_is_refused(change: Callable[[light_nets.Net], None], message: str) -> None:
    net = light_nets.net()
    skeleton = Skeleton.of(net)
    change(net)
    with pytest.raises(ModelError, match=message):
        diff(skeleton, net)


def test_extra_state_and_lazy_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="extra state"):
        Skeleton.of(nn.Sequential(light_nets.ExtraState(2, 2)))
    with pytest.raises(ModelError, match="no shape yet"):
        Skeleton.of(nn.LazyLinear(3))


def test_module_that_contains_itself_is_refused() -> None:
    inner = nn.Sequential(nn.ReLU())
    inner.add_module("loop", inner)
    with pytest.raises(ModelError, match="contains itself"):
        Skeleton.of(inner)


def test_changes_of_another_model_are_refused() -> None:
    changes = Changes(modules={"0": LayerSpec(type="Linear", args={"in_features": 2, "out_features": 2})})
    with pytest.raises(ModelError, match="do not fit"):
        apply(changes, nn.Sequential(nn.Linear(2, 2)))


class Doubled(nn.Module):
    """A layer of our own with a child, as quantized layers have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.inner = light_nets.SameConv(width, width, 3)
        self.register_buffer("codes", torch.zeros(width, dtype=torch.uint8))


def test_registered_layer_is_rebuilt_with_its_children() -> None:
    register_layer(Doubled, lambda module: {"width": module.width}, name="test.Doubled")
    origin = nn.Sequential(nn.Linear(2, 2))
    changes = diff(Skeleton.of(origin), nn.Sequential(Doubled(4)))
    assert changes.modules == {"0": LayerSpec(type="test.Doubled", args={"width": 4})}
    apply(changes, origin, device="meta")
    assert origin[0].codes.dtype == torch.uint8
    with pytest.raises(ModelError, match="taken"):
        register_layer(light_nets.Block, lambda module: {}, name="test.Doubled")
