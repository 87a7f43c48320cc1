"""Attention finds the head and the channels that nobody misses, with labels and without."""

from __future__ import annotations

import numpy as np
import pruned_nets
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.model.graph import trace
from lwplugin.progress import silent
from lwplugin.prune.attention import AttentionConfig, score


@pytest.mark.parametrize("labels", [True, False])
def test_a_head_that_is_not_read_matters_least(
    encoder: pruned_nets.Encoder, words: Data, labels: bool
) -> None:
    with torch.no_grad():
        encoder.layers[1].attention.out.weight[:, 8:16] = 0
    if labels:
        batch = next(words.need("calibration").batches(64))
        words = from_arrays(calibration=(batch.inputs, np.arange(64) % 3))
    graph = trace(encoder, words.example(2))
    found = score(encoder, graph, words, AttentionConfig(macs=0.5), silent)
    heads = next(g.index for g in graph.groups if "layers.1.attention.value" in g.name)
    assert len(found[heads]) == 4
    assert int(np.argmin(found[heads])) == 1
    assert found[heads][1] == pytest.approx(0, abs=1e-9)
    assert (np.delete(found[heads], 1) > 0).all()
    light = lwplugin.prune(encoder, words, method="attention", macs=0.8, collapse=0.0, round_to=1)
    assert light.history[-1].metrics["macs"] <= 0.8 * light.history[-1].metrics["macs_before"]


def test_channels_that_are_not_missed_lose_their_attention(cnn: nn.Module, digits: Data) -> None:
    net = lwplugin.light(cnn).copy_module()
    with torch.no_grad():
        net.blocks[1].conv2.weight[:, :5] = 0  # type: ignore[index, union-attr]
    graph = trace(net, digits.example(2))
    group = next(g for g in graph.groups if "blocks.1.conv1" in g.name)
    found = score(net, graph, digits, AttentionConfig(macs=0.5, attention_steps=60), silent)[group.index]
    assert set(np.argsort(found)[:5]) == {0, 1, 2, 3, 4}
    assert all(not part._forward_pre_hooks for part in net.modules())
