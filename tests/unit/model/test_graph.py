"""The dependency graph's promise: silence a group's units, cut them, and the output does not move."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import ARCHITECTURES, FlattenCnn, HiddenTrap, Vit, image

from lwplugin.data.batch import call
from lwplugin.model.graph import trace
from lwplugin.model.oracle import moved_by, trial
from lwplugin.model.surgery import cut


def build(name: str) -> tuple[torch.nn.Module, torch.Tensor, tuple[str, ...]]:
    torch.manual_seed(1)
    factory, inputs, expected = ARCHITECTURES[name]
    module = factory().eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
    return module, inputs(), expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_group_can_be_cut_and_the_output_does_not_move(name: str) -> None:
    module, inputs, expected = build(name)
    graph = trace(module, inputs)
    prunable = {layer for group in graph.groups for layer in group.name.split(", ")}
    assert set(expected) <= prunable, graph.left_alone
    for seed in range(2):
        for group in graph.groups:
            assert moved_by(module, inputs, graph, {group.index: trial(group, seed)}) is None
        assert moved_by(module, inputs, graph, {g.index: trial(g, seed) for g in graph.groups}) is None


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_costs_after_a_cut_are_those_of_the_cut_model(name: str) -> None:
    module, inputs, _ = build(name)
    graph = trace(module, inputs)
    removed = {g.index: trial(g) for g in graph.groups}
    smaller = copy.deepcopy(module)
    cut(smaller, graph, removed)
    assert graph.params() == sum(p.numel() for p in module.parameters())
    assert graph.params(removed) == sum(p.numel() for p in smaller.parameters()) < graph.params()
    assert graph.macs(removed) == trace(smaller, inputs, verify=False).macs() < graph.macs()


def test_what_cannot_be_cut_is_named_with_a_reason() -> None:
    graph = trace(FlattenCnn(hard=True), image())
    assert "does not run with fewer" in graph.left_alone["c2"]
    assert graph.left_alone["fc2"] == "the model's output"
    graph = trace(HiddenTrap(), image())
    assert "c1" in graph.left_alone
    assert "layer norm" in trace(Vit(), image()).left_alone["patch"]


def test_attribute_that_holds_a_width_follows_the_cut() -> None:
    module = FlattenCnn(attribute=True)
    graph = trace(module, image())
    group = next(g for g in graph.groups if "c2" in g.name)
    cut(module, graph, {group.index: [0, 1, 2]})
    assert module.flat == 256 - 3 * 16
    assert call(module, image()).shape == (2, 10)


def test_attention_is_cut_by_whole_heads() -> None:
    graph = trace(Vit(), image())
    heads = next(g for g in graph.groups if g.name == "blocks.0.attn.qkv")
    assert len(heads) == 4
    assert heads.width == 18


def test_tracing_leaves_the_model_as_it_was() -> None:
    module = Vit().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    trace(module, image())
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_tracing_gives_each_layer_back_in_its_own_mode() -> None:
    module = build("resnet")[0].train()
    module.stem[1].eval()  # a frozen norm
    trace(module, image())
    assert module.training
    assert not module.stem[1].training
