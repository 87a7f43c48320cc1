"""A BERT: attention projections, masked tokens, a pooler."""

from __future__ import annotations

import pytest
import torch

import lwplugin
from lwplugin.data import from_arrays

transformers = pytest.importorskip("transformers")


def test_attention_projections_become_products_and_padding_does_not_count() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    net = transformers.BertModel(config).eval()
    mask = (torch.arange(12)[None] < torch.randint(3, 13, (200, 1))).long()
    inputs = {"input_ids": torch.randint(1, 100, (200, 12)) * mask, "attention_mask": mask}
    data = from_arrays(calibration=inputs, task="embedding")
    light = lwplugin.factorize(net, data, params=0.7, skip=("embeddings.*",))
    names = {row["name"] for row in light.history[-1].details["layers"]}
    assert any(name.endswith("attention.self.query") for name in names)
    entry = light.history[-1].metrics
    assert entry["params"] <= 0.7 * entry["params_before"]
    assert entry["agreement"] > 0.9
    # What stands where there is padding decides nothing.
    noisy = {**inputs, "input_ids": torch.where(mask.bool(), inputs["input_ids"], 7)}
    again = lwplugin.factorize(
        net,
        from_arrays(calibration=noisy, task=data.task),
        params=0.7,
        skip=("embeddings.*",),
    )
    for (name, ours), theirs in zip(light.module.state_dict().items(), again.module.state_dict().values()):
        assert torch.allclose(ours, theirs, atol=1e-4), name
