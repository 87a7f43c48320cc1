from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from quantize_nets import tokens
from torch import nn

from lwplugin.data import from_arrays
from lwplugin.data.batch import Batch
from lwplugin.model.bundle import light, load
from lwplugin.model.origin import FactoryOrigin
from lwplugin.quantize import QuantLinear, quantize
from lwplugin.quantize.bias import correct_biases
from lwplugin.quantize.calibration import observe
from lwplugin.quantize.input_energy import input_energy
from lwplugin.quantize.observers import make_observer
from lwplugin.quantize.scheme import AffineGrid, dynamically_rounded
from lwplugin.quantize.smoothing import best_gain, smoothing_gains
from lwplugin.quantize.splitting import channels_to_split, pairs_of, split_channels


def test_layers_over_tokens_get_the_form_that_calibration_prefers() -> None:
    net, data = tokens()
    details = quantize(net, data, rounding="nearest", bias_correction=False).history[-1].details
    rows = details["candidates"]
    assert {"plain", "dynamic"} < set(rows)
    assert "smoothed" in details["picked"]
    best = max(rows.values(), key=lambda row: row["output_sqnr_db"])
    assert best["output_sqnr_db"] > rows["plain"]["output_sqnr_db"] + 3
    assert rows[details["picked"]]["agreement"] >= best["agreement"] - 0.005


@pytest.mark.parametrize(("activations", "smoothing"), [("dynamic", False), ("static", True)])
def test_the_form_can_be_told_exactly(activations: str, smoothing: bool) -> None:
    net, data = tokens()
    made = quantize(net, data, activations=activations, smoothing=smoothing, rounding="nearest")
    layers = [layer for layer in made.module.modules() if isinstance(layer, QuantLinear)]
    assert {layer.dynamic for layer in layers} == {activations == "dynamic"}
    assert (made.module.query.input_gain is not None) is smoothing


def test_symmetric_ranges_have_their_zero_point_in_the_middle() -> None:
    net, data = tokens()
    made = quantize(net, data, symmetric=True)
    layers = [layer for layer in made.module.modules() if isinstance(layer, QuantLinear)]
    assert layers
    for layer in layers:
        lo, hi = layer.input_range.tolist()
        grid, signed = layer.input_grid(), AffineGrid.symmetric(lo, hi)
        assert not layer.dynamic
        assert grid is not None
        assert (grid.zero_point, signed.low, signed.high) == (128, -128, 127)
        assert grid.scale == signed.scale


def test_ranges_without_negative_values_stay() -> None:
    observer = make_observer("minmax", symmetric=True)
    observer.update(torch.tensor([0.0, 3.0]))
    assert observer.range() == (0.0, 3.0)


def test_layers_that_read_one_tensor_share_their_gains() -> None:
    net, data = tokens()
    inputs = next(data.need("calibration").batches(64)).inputs
    gains = smoothing_gains(net, inputs, ["query", "value", "out"], limit=64)
    assert torch.equal(gains["query"], gains["value"])
    # The large channels shrink.
    assert float(gains["query"][:3].max()) < float(gains["query"][3:].min())


def test_no_gain_is_given_where_none_helps() -> None:
    torch.manual_seed(0)
    x, weight = torch.randint(0, 2, (64, 16)) * 255.0, torch.randint(-64, 65, (8, 16)).float()
    weight[:, 0] = 64.0
    assert best_gain(x, x.abs().amax(0), weight, 64) is None


def test_dynamic_rounding_follows_the_values_at_hand() -> None:
    x = torch.linspace(-1, 2, 1000)
    assert float((dynamically_rounded(x) - x).abs().max()) <= 3 / 255 / 2 + 1e-6
    assert float((dynamically_rounded(100 * x) - 100 * x).abs().max()) <= 300 / 255 / 2 + 1e-4
    assert torch.equal(dynamically_rounded(torch.zeros(5)), torch.zeros(5))


def test_a_smoothed_layer_stands_for_the_float_weight_it_came_from() -> None:
    net, data = tokens()
    layer = quantize(net, data, smoothing=True, rounding="nearest", reduce_range=False).module.query
    assert float((layer.to_float().weight - net.query.weight.detach()).abs().max()) < 0.02
    assert torch.equal(layer.to_float().weight, layer.effective_weight)


def test_a_bundle_keeps_the_form(tmp_path: Path) -> None:
    net, data = tokens()
    made = quantize(
        light(net, FactoryOrigin(path="quantize_nets:Tokens")), data, activations="dynamic", smoothing=True
    )
    made.save(tmp_path / "bundle")
    again = load(tmp_path / "bundle").module
    x = torch.randint(50, (5, 12))
    with torch.no_grad():
        assert torch.equal(again(x), made.module(x))


def test_the_argument_keeps_its_float_layers() -> None:
    net, data = tokens()
    quantize(net, data)
    assert type(net.query) is nn.Linear


def test_examples_by_themselves_do_not_share_a_grid() -> None:
    x = torch.randn(3, 5, 4) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    apart = torch.cat([dynamically_rounded(example[None]) for example in x])
    assert torch.equal(dynamically_rounded(x, alone=True), apart)
    assert not torch.equal(dynamically_rounded(x), apart)


@pytest.mark.parametrize("what", ["ranges", "biases", "energy"])
def test_padding_is_not_fitted_to(what: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 8)
            self.layer = nn.Linear(8, 8)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.layer(self.table(input_ids)) * attention_mask[..., None]

    torch.manual_seed(0)
    net = Masked().eval()
    with torch.no_grad():
        net.table.weight[0] = 1000.0  # what stands for padding
    ids = torch.randint(1, 50, (16, 6))
    mask = torch.ones_like(ids)
    mask[:, 3:] = 0
    batch = Batch({"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}, None, np.arange(16))
    bare = Batch({"input_ids": ids[:, :3], "attention_mask": mask[:, :3]}, None, np.arange(16))
    if what == "ranges":
        seen = [observe(net, [each], ["layer"], lambda: make_observer("minmax")) for each in (batch, bare)]
        assert seen[0] == seen[1]
        assert seen[0]["layer"].inputs[1] < 1000
    elif what == "energy":
        found = [input_energy(net, [each], ["layer"])["layer"] for each in (batch, bare)]
        assert torch.allclose(*found)
    else:
        data = from_arrays(calibration=bare.inputs, task="regression")
        made = quantize(net, data, activations="static", smoothing=False, embeddings=False).module
        shifts = [correct_biases(net, copy.deepcopy(made), [each]) for each in (batch, bare)]
        assert shifts[0]["layer"] == pytest.approx(shifts[1]["layer"], rel=1e-3)


class FeedForward(nn.Module):
    """A block whose hidden channel 5 has one weight that sets the step of its whole row."""

    def __init__(
        self, hidden: int = 1536, norm: bool = False, shortcut: bool = False, largest: float = 3.0
    ) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, hidden), nn.Linear(hidden, hidden if shortcut else 8)
        self.norm = nn.LayerNorm(hidden) if norm else nn.Identity()
        self.shortcut = shortcut
        with torch.no_grad():
            self.down.weight[3, 5] = largest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.up(x)
        found = self.down(self.norm(nn.functional.gelu(wide)))
        return found + wide if self.shortcut else found


def feed_forward() -> FeedForward:
    torch.manual_seed(0)
    return FeedForward().eval()


def test_a_split_channel_changes_no_answer_and_the_step_of_its_row() -> None:
    net, x = feed_forward(), torch.randn(8, 6, 16)
    made, (split,) = split_channels(net, ["up", "down"], x, gains={})
    assert (split.first, split.second, split.added) == ("up", "down", 16)
    assert (made.up.out_features, made.down.in_features, net.up.out_features) == (1552, 1552, 1536)
    with torch.no_grad():
        assert torch.allclose(made(x), net(x), atol=1e-5)
        assert float(made.down.weight[3].abs().max()) < 0.25


@pytest.mark.parametrize("other", [{"norm": True}, {"shortcut": True}, {"hidden": 64}, {"largest": 0.1}])
def test_channels_stay_that_something_else_reads_and_where_it_does_not_pay(other: dict[str, object]) -> None:
    net, x = FeedForward(**other).eval(), torch.randn(8, 6, 16)
    made, splits = split_channels(net, ["up", "down"], x, gains={})
    assert splits == []
    with torch.no_grad():
        assert torch.equal(made(x), net(x))


def test_pairs_have_only_a_function_of_each_value_between_them() -> None:
    x = torch.randn(4, 6, 16)
    assert pairs_of(FeedForward(), ["up", "down"], x) == [("up", "down")]
    assert pairs_of(FeedForward(norm=True), ["up", "down"], x) == []


def test_the_channel_that_takes_most_off_the_steps_is_split_first() -> None:
    weight = torch.tensor([[8.0, 1.0, 0.1], [0.1, 1.0, 0.9]])
    assert channels_to_split(weight, 4).tolist() == [0, 1, 2, 0, 0, 0, 0]


def test_int8_splits_where_told_and_keeps_it(tmp_path: Path) -> None:
    net = feed_forward()
    data = from_arrays(calibration=(torch.randn(64, 6, 16).numpy(), None), task="regression")
    fixed = {"rounding": "nearest", "bias_correction": False, "smoothing": False, "activations": "dynamic"}
    parent = light(net, FactoryOrigin(path="test_int8_forms:feed_forward"))
    made = {on: quantize(parent, data, **fixed, splitting=on) for on in (False, True)}
    details = made[True].history[-1].details
    assert details["split"] == {"up → down": 16}
    assert details["picked"] == "dynamic, split"
    found = {on: one.history[-1].metrics["calibration_sqnr_db"] for on, one in made.items()}
    assert found[True] > found[False] + 1
    made[True].save(tmp_path / "bundle")
    x = torch.randn(3, 6, 16)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "bundle").module(x), made[True].module(x))
