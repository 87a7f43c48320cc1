"""Attacks stay in their ball, masks on their budget, and robustness is reported beside the clean figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, from_arrays
from lwplugin.data.batch import call
from lwplugin.errors import MethodError
from lwplugin.prune.adversarial import project
from lwplugin.prune.attack import Attack


def test_the_projection_is_the_nearest_point_of_the_budget() -> None:
    rng = np.random.default_rng(0)
    masks, cost = torch.from_numpy(rng.normal(0.6, 0.6, 40)), torch.from_numpy(rng.uniform(0.5, 2, 40))
    found = project(masks, cost, 10.0)
    assert found.min() >= 0
    assert found.max() <= 1
    assert float((found * cost).sum()) == pytest.approx(10.0, abs=1e-6)
    distance = float((found - masks).square().sum())
    for _ in range(200):
        other = torch.from_numpy(rng.random(40))
        other = other * min(1.0, 10.0 / float((other * cost).sum()))
        assert float((other - masks).square().sum()) >= distance
    loose = project(masks, cost, 1e9)
    assert torch.equal(loose, masks.clamp(0, 1))


def test_an_attack_raises_the_loss_within_its_ball(cnn: nn.Module, digits: Data) -> None:
    split = digits.need("calibration")
    attack = Attack.on(split, 0.05, 5)
    batch = next(split.batches(64))

    def loss(inputs: object) -> torch.Tensor:
        return digits.task.loss(call(cnn, inputs), batch.targets)  # type: ignore[arg-type]

    attacked = attack(loss, batch.inputs, torch.Generator().manual_seed(0))
    radius = 0.05 * (attack.high - attack.low)
    assert float((attacked - batch.inputs).abs().max()) <= radius * 1.0001  # type: ignore[operator]
    assert attacked.min() >= attack.low  # type: ignore[union-attr]
    assert attacked.max() <= attack.high  # type: ignore[union-attr]
    noise = batch.inputs + radius * torch.randn_like(batch.inputs).sign()  # type: ignore[arg-type, operator]
    with torch.no_grad():
        assert loss(attacked) > loss(noise)
        assert loss(attacked) > 1.5 * loss(batch.inputs)


def test_robust_figures_stand_beside_the_clean(cnn: nn.Module, digits: Data) -> None:
    light = lwplugin.prune(cnn, digits, method="adversarial", macs=0.6, mask_steps=20, epsilon=0.05)
    metrics = light.history[-1].metrics
    assert metrics["robust_score"] < metrics["clean_score"]
    assert metrics["parent_robust_score"] < metrics["parent_clean_score"]
    assert 0 < metrics["robust_agreement"] <= metrics["clean_agreement"] <= 1
    assert not any(p.grad is not None for p in light.module.parameters())


def test_token_ids_are_refused_with_the_way_out(encoder: nn.Module, words: Data) -> None:
    with pytest.raises(MethodError, match=r"ids: int64.*use taylor or reconstruct"):
        lwplugin.prune(encoder, words, method="adversarial", macs=0.6)


def test_no_labels_are_needed(cnn: nn.Module, digits: Data) -> None:
    images = next(digits.need("calibration").batches(128)).inputs
    light = lwplugin.prune(cnn, from_arrays(calibration=images), method="adversarial", macs=0.6, mask_steps=4)
    metrics = light.history[-1].metrics
    assert "robust_agreement" in metrics
    assert "robust_score" not in metrics
