from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import light_nets
import pytest
import torch
from light_nets import answer_digest, pruned
from torch import nn

import lwplugin.model as lw
from lwplugin.artifact import digest_directory
from lwplugin.errors import ModelError

Fresh = Callable[[Path, object], str]


def test_changed_model_answers_bit_identically_in_a_fresh_process(
    net: lw.LightModel, tmp_path: Path, fresh_output: Fresh
) -> None:
    light = net.evolve(pruned(net), lw.HistoryEntry(step="prune", method="taylor", metrics={"macs": 0.5}))
    digest = light.save(tmp_path / "bundle")
    x = torch.randn(2, 3, 4, 4)
    assert digest == digest_directory(tmp_path / "bundle")
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)
    loaded = lw.load(tmp_path / "bundle", expected_digest=digest)
    assert loaded.history == light.history
    assert loaded.changes == light.changes
    assert not loaded.module.training


def test_modules_used_twice_load_as_one(net: lw.LightModel, tmp_path: Path) -> None:
    net.save(tmp_path / "bundle")
    module = lw.load(tmp_path / "bundle").module
    assert module.again is module.norm


def test_shared_module_replaced_under_both_names_stays_shared(net: lw.LightModel, tmp_path: Path) -> None:
    module = net.copy_module()
    module.norm = module.again = nn.Identity()
    net.evolve(module, lw.HistoryEntry(step="prune")).save(tmp_path / "bundle")
    loaded = lw.load(tmp_path / "bundle").module
    assert isinstance(loaded.norm, nn.Identity)
    assert loaded.again is loaded.norm


def test_shared_module_replaced_under_one_name_is_shared_no_more(net: lw.LightModel, tmp_path: Path) -> None:
    module = net.copy_module()
    module.norm = nn.LayerNorm(8, eps=0.5)
    light = net.evolve(module, lw.HistoryEntry(step="prune"))
    light.save(tmp_path / "bundle")
    loaded = lw.load(tmp_path / "bundle").module
    x = torch.randn(2, 3, 4, 4)
    assert loaded.again is not loaded.norm
    assert torch.equal(loaded(x), light.module(x))


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path, fresh_output: Fresh) -> None:
    light = lw.light(light_nets.Tied())
    light.save(tmp_path / "bundle")
    loaded = lw.load(tmp_path / "bundle").module
    assert loaded.decode.weight is loaded.embed.weight
    stored = (tmp_path / "bundle" / "weights.safetensors").stat().st_size
    assert stored < light.cost(torch.zeros(1, 3, dtype=torch.long)).size_bytes + 2000
    ids = torch.randint(0, 11, (2, 5))
    assert fresh_output(tmp_path / "bundle", ids) == answer_digest(light.module, ids)


def test_weights_untied_by_a_method_stay_untied(tmp_path: Path) -> None:
    light = lw.light(light_nets.Tied())
    module = light.copy_module()
    module.decode.weight = nn.Parameter(torch.randn(11, 6))
    changed = light.evolve(module, lw.HistoryEntry(step="quantize"))
    changed.save(tmp_path / "bundle")
    loaded = lw.load(tmp_path / "bundle").module
    ids = torch.randint(0, 11, (2, 5))
    assert loaded.decode.weight is not loaded.embed.weight
    assert torch.equal(loaded(ids), changed.module(ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype, tmp_path: Path, fresh_output: Fresh) -> None:
    light = lw.light(light_nets.wide().to(dtype), lw.FactoryOrigin("light_nets:wide"))
    light.save(tmp_path / "bundle")
    x = torch.randn(2, 64, dtype=dtype)
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)


def test_channels_last_weights_come_back_channels_last(tmp_path: Path) -> None:
    conv = nn.Sequential(nn.Conv2d(4, 8, 3)).to(memory_format=torch.channels_last)
    light = lw.light(conv)
    light.save(tmp_path / "bundle")
    weight = lw.load(tmp_path / "bundle").module[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, conv[0].weight)


def test_random_buffers_outside_the_state_dict_are_kept(tmp_path: Path, fresh_output: Fresh) -> None:
    light = lw.light(light_nets.RandomFeatures())
    light.save(tmp_path / "bundle")
    x = torch.randn(2, 4)
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)


def test_constructor_that_draws_integers_is_refused_at_load(tmp_path: Path) -> None:
    light = lw.light(light_nets.Shuffled(), lw.FactoryOrigin("light_nets:Shuffled"))
    light.save(tmp_path / "bundle")
    torch.manual_seed(5)
    with pytest.raises(ModelError, match="builds another model"):
        lw.load(tmp_path / "bundle")


def test_bundle_of_a_bundle_keeps_the_first_origin(net: lw.LightModel, tmp_path: Path) -> None:
    first = net.evolve(pruned(net), lw.HistoryEntry(step="prune"))
    first.save(tmp_path / "first")
    again = lw.load(tmp_path / "first")
    module = again.copy_module()
    module.head = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 4))
    second = again.evolve(module, lw.HistoryEntry(step="factorize"))
    second.save(tmp_path / "second")
    loaded = lw.load(tmp_path / "second")
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded.module(x), second.module(x))
    assert [entry.step for entry in loaded.history] == ["prune", "factorize"]
    assert loaded.origin == net.origin
    assert "stem.0" in loaded.changes.modules


def test_same_model_saves_to_the_same_digest(net: lw.LightModel, tmp_path: Path) -> None:
    assert (
        net.save(tmp_path / "a") == net.save(tmp_path / "b") == lw.load(tmp_path / "a").save(tmp_path / "a")
    )


def test_saving_over_a_bundle_replaces_it_and_over_other_things_is_refused(
    net: lw.LightModel, tmp_path: Path
) -> None:
    net.save(tmp_path / "bundle")
    module = net.copy_module()
    module.head = nn.Linear(8, 4, bias=False)
    net.evolve(module, lw.HistoryEntry(step="prune")).save(tmp_path / "bundle")
    assert "head" in lw.load(tmp_path / "bundle").changes.modules
    assert os.listdir(tmp_path) == ["bundle"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ModelError, match="taken by something else"):
        net.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_failed_save_leaves_nothing(tmp_path: Path) -> None:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

    with pytest.raises(ModelError, match="FactoryOrigin"):
        lw.light(Local()).save(tmp_path / "bundle")
    assert os.listdir(tmp_path) == []


def test_light_copies_its_argument(net: lw.LightModel) -> None:
    mine = light_nets.net()
    light = lw.light(mine, net.origin)
    with torch.no_grad():
        mine.head.weight.zero_()
    assert mine.training
    assert light.module.head.weight.abs().sum() > 0


def test_own_class_without_arguments_needs_no_origin(tmp_path: Path) -> None:
    assert lw.light(light_nets.Net()).origin == lw.FactoryOrigin("light_nets:Net")
    assert isinstance(lw.light(light_nets.Net(width=16)).origin, lw.InMemoryOrigin)


def test_sequential_of_listed_layers_needs_no_origin(tmp_path: Path, fresh_output: Fresh) -> None:
    light = lw.light(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)))
    light.save(tmp_path / "bundle")
    x = torch.randn(2, 3, 4, 4)
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)


def test_load_leaves_the_random_state_alone(tmp_path: Path) -> None:
    lw.light(light_nets.RandomFeatures()).save(tmp_path / "bundle")
    before = torch.get_rng_state()
    lw.load(tmp_path / "bundle")
    assert torch.equal(before, torch.get_rng_state())


def test_history_with_nan_is_refused(net: lw.LightModel, tmp_path: Path) -> None:
    entry = lw.HistoryEntry(step="prune", metrics={"loss": float("nan")})
    with pytest.raises(ModelError, match="history cannot be written"):
        net.evolve(net.copy_module(), entry).save(tmp_path / "bundle")


def test_repr_says_what_it_is(net: lw.LightModel) -> None:
    light = net.evolve(net.copy_module(), lw.HistoryEntry(step="prune", method="taylor"))
    assert repr(light).startswith("LightModel(Net, ")
    assert "prune:taylor" in repr(light)


def test_quantized_layers_load_where_quantize_was_never_imported(tmp_path: Path, fresh_output: Fresh) -> None:
    from lwplugin.quantize.layers import QuantConv2d, QuantLinear

    base = lw.light(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8)))
    torch.manual_seed(2)
    conv, linear = QuantConv2d(3, 4, 3), QuantLinear(16, 8, bias=True, weight_bits=4)
    for layer in (conv, linear):
        layer.qweight.copy_(torch.randint(0, 100, layer.qweight.shape))
        layer.scale.fill_(0.01)
        layer.input_range.copy_(torch.tensor([-3.0, 3.0]))
    light = base.evolve(nn.Sequential(conv, nn.Flatten(), linear), lw.HistoryEntry(step="quantize"))
    light.save(tmp_path / "bundle")
    x = torch.randn(2, 3, 4, 4)
    assert light.module(x).abs().sum() > 0
    assert fresh_output(tmp_path / "bundle", x) == answer_digest(light.module, x)
    assert light.cost(x).layer("2").size_bytes < base.cost(x).layer("2").size_bytes
