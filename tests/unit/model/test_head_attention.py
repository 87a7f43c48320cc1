"""Heads of nn.MultiheadAttention can go: nothing moves before the cut, nothing but the heads' own part after it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.model.attention import HeadAttention, close_heads, open_heads
from lwplugin.model.graph import trace
from lwplugin.model.oracle import moved_by, trial
from lwplugin.model.trace import plain_kernels


class AttentionNet(nn.Module):
    """Self-attention with and without weights asked for, cross-attention, a stack of torch's own layers."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Linear(8, 16)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.cross = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, bias=False, batch_first=batch_first)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.embed(x)
        y = y + self.attend(y, y, y)[0]
        y = y + self.cross(y, x, x, need_weights=False)[0]
        y = self.encoder(y, src_key_padding_mask=(x[..., 0] > 1.5).transpose(0, int(not self.batch_first)))
        return self.head(y.mean(1 if self.batch_first else 0))


class Packed(nn.Module):
    """Reaches for the packed weights, as some vision models do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.attention.in_proj_weight).mean((1, 2))


def inputs(n: int = 3) -> Tensor:
    return torch.randn(n, 6, 8, generator=torch.Generator().manual_seed(1))


def net(batch_first: bool = True) -> AttentionNet:
    torch.manual_seed(0)
    made = AttentionNet(batch_first).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.5, 0.5)
    return made


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"kdim": 6, "vdim": 10}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_same_bits_as_torchs_own(options: dict[str, int], need_weights: bool) -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.MultiheadAttention(16, 4, **options).eval())
    theirs = holder[0]
    shapes = [(3, 7, 16), (3, 9, options.get("kdim", 16)), (3, 9, options.get("vdim", 16))]
    q, k, v = (
        torch.randn(s) if options.get("batch_first") else torch.randn(s).transpose(0, 1) for s in shapes
    )
    padding = torch.arange(9)[None] > torch.tensor([8, 5, 3])[:, None]
    masks = [None, torch.rand(7, 9) > 0.8, torch.randn(7, 9), torch.randn(12, 7, 9)]
    ours = copy.deepcopy(holder)
    open_heads(ours, inputs())  # cannot run with one input alone: stays
    assert type(ours[0]) is nn.MultiheadAttention
    ours = HeadAttention(16, 4, 4, **options).eval()  # type: ignore[assignment, arg-type]
    parts = dict(zip("qkv", theirs.in_proj_weight.chunk(3) if theirs.in_proj_weight is not None else
                     (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)))  # fmt: skip
    state = {f"{name}_proj.weight": part for name, part in parts.items()}
    state |= {f"out_proj.{name}": tensor for name, tensor in theirs.out_proj.named_parameters()}
    if theirs.in_proj_bias is not None:
        state |= {f"{n}_proj.bias": part for n, part in zip("qkv", theirs.in_proj_bias.chunk(3))}
    ours.load_state_dict(state)
    for mask in masks:
        for pad in (None, padding if mask is None or mask.dtype == torch.bool else padding * -1e4):
            asked = {"attn_mask": mask, "key_padding_mask": pad, "need_weights": need_weights}
            with torch.no_grad(), plain_kernels(theirs):
                wanted, weights = theirs(q, k, v, **asked)
                found, own = ours(q, k, v, **asked)
            assert torch.equal(wanted, found)
            assert (weights is None) == (own is None)
            assert weights is None or torch.equal(weights, own)


@pytest.mark.parametrize("batch_first", [True, False])
def test_every_head_can_be_cut_and_the_output_does_not_move(batch_first: bool) -> None:
    module = net(batch_first)
    before = copy.deepcopy(module)
    open_heads(module, inputs())
    with torch.no_grad(), plain_kernels(before):
        assert torch.equal(module(inputs()), before(inputs()))
    graph = trace(module, inputs())
    heads = {g.name.split(".q_proj")[0]: g for g in graph.groups if "q_proj" in g.name}
    assert {name: (len(g), g.width) for name, g in heads.items()} == {
        "attend": (4, 4),
        "cross": (2, 8),
        "encoder.layers.0.self_attn": (4, 4),
        "encoder.layers.1.self_attn": (4, 4),
    }
    for seed in range(2):
        for group in graph.groups:
            assert moved_by(module, inputs(), graph, {group.index: trial(group, seed)}) is None
        assert moved_by(module, inputs(), graph, {g.index: trial(g, seed) for g in graph.groups}) is None
    close_heads(module)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.state_dict().items())
    assert not any(isinstance(layer, HeadAttention) for layer in module.modules())


def test_what_one_cannot_stand_in_for_stays() -> None:
    module = Packed()
    (reason,) = open_heads(module, inputs()).values()
    assert "reads its packed weights" in reason
    assert type(module.attention) is nn.MultiheadAttention
    tied = net()
    tied.encoder.layers[0].self_attn.in_proj_weight = tied.attend.in_proj_weight
    with_keys = nn.MultiheadAttention(16, 4, add_bias_kv=True, batch_first=True)
    tied.encoder.layers[1].self_attn = with_keys
    whole = open_heads(tied, inputs())
    opened = [name for name, layer in tied.named_modules() if isinstance(layer, HeadAttention)]
    assert opened == ["cross"]
    assert {name: reason.partition(": ")[2].split()[0] for name, reason in whole.items()} == {
        "attend": "its",
        "encoder.layers.0.self_attn": "its",
        "encoder.layers.1.self_attn": "add_bias_kv",
    }


class Watched(nn.Module):
    """An attention of which each kind has a reason of its own to stay whole."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(8, 16), attention
        self.up, self.head = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        y = y + self.attention(y, y, y, need_weights=False)[0]
        return self.head(torch.relu(self.up(y)).mean(1))


class Own(nn.MultiheadAttention):
    """A subclass."""


def hooked() -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    attention.register_forward_hook(lambda *_: None)
    return attention


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (lambda: nn.MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True), "add_bias_kv"),
        (lambda: nn.MultiheadAttention(16, 4, batch_first=True, add_zero_attn=True), "add_zero_attn"),
        (lambda: Own(16, 4, batch_first=True), "Own may compute something else"),
        (hooked, "hooks on it would be lost"),
    ],
)
def test_the_record_says_why_heads_stay(
    data: Data, attention: Callable[[], nn.MultiheadAttention], reason: str
) -> None:
    light = lwplugin.prune(Watched(attention()), data, method="magnitude", params=0.8, collapse=0.0)
    rows = {row["name"]: row["reason"] for row in light.history[-1].details["left_alone"]}
    assert reason in rows["attention"]
    assert reason in rows["attention.out_proj"]


@pytest.fixture(scope="module")
def data() -> Data:
    x = inputs(96)
    return from_arrays(calibration=x[:64], test=(x[64:], torch.arange(32) % 5))


def test_a_pruned_model_is_rebuilt_exported_and_runs_the_same(data: Data, tmp_path: Path) -> None:
    parent = net()
    light = lwplugin.prune(
        parent, data, params=0.75, round_to=1, collapse=0.0, skip=("encoder.layers.1.self_attn*",)
    )
    assert light.module.attend.num_heads * 4 == light.module.attend.q_proj.out_features
    kinds = {
        name: type(light.module.get_submodule(name)) for name in ("attend", "encoder.layers.1.self_attn")
    }
    assert kinds == {"attend": HeadAttention, "encoder.layers.1.self_attn": nn.MultiheadAttention}
    assert all(isinstance(p, nn.MultiheadAttention) for p in (parent.attend, parent.cross))
    light.save(tmp_path / "bundle")
    x = inputs(8)
    with torch.no_grad():
        expected = light.module(x)
    np.save(tmp_path / "x.npy", x.numpy())
    script = (
        "import sys, numpy as np, torch, lwplugin\n"
        "net = lwplugin.load(sys.argv[1] + '/bundle').module.eval()\n"
        "with torch.no_grad():\n"
        "    np.save(sys.argv[1] + '/y.npy', net(torch.from_numpy(np.load(sys.argv[1] + '/x.npy'))).numpy())\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert np.array_equal(np.load(tmp_path / "y.npy"), expected.numpy())
    runtime = pytest.importorskip("onnxruntime")
    exported = lwplugin.export(light, data, format="onnx", path=tmp_path / "export")
    session = runtime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(answer, expected.numpy(), atol=2e-5)
