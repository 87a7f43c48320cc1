from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data, call, evaluate, from_arrays, load
from lwplugin.errors import DataError, MethodError, RecipeError
from lwplugin.training import TrainConfig, TrainResult, train

WORKER = Path(__file__).with_name("resume_worker.py")


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(288, 10)
    )


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_learns_real_digits(digits: Data) -> None:
    module = net().eval()
    result = train(module, digits, config=TrainConfig(epochs=4, lr=3e-3))
    assert digits.test is not None
    assert evaluate(module, digits.test, digits.task).metrics["accuracy"] > 0.9
    assert result.steps == 4 * 17 == len(result.losses)
    assert result.losses[-1] < result.losses[0] / 3
    assert [entry["epoch"] for entry in result.history] == [0, 1, 2, 3]
    assert not module.training


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_same_seed_same_weights_and_the_callers_random_state_is_untouched(
    digits: Data, optimizer: str
) -> None:
    config = TrainConfig(max_steps=6, optimizer=optimizer, lr=1e-2, seed=3)  # type: ignore[arg-type]
    first, second, other = net(), net(), net()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(first, digits, config=config)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    train(second, digits, config=config)
    train(other, digits, config=config.model_copy(update={"seed": 4}))
    assert same(state(first), state(second))
    assert not same(state(first), state(other))


@pytest.mark.parametrize("schedule", ["cosine", "constant", "linear", "onecycle", "step"])
def test_schedules_stay_between_zero_and_the_peak(digits: Data, schedule: str) -> None:
    from lwplugin.training.schedule import factor

    factors = [factor(schedule, step, 40, 0.1) for step in range(40)]
    assert all(0 <= value <= 1 for value in factors)
    assert max(factors) > 0.9
    assert factors[0] < 0.5
    assert schedule == "constant" or factors[-1] < 0.1


def test_accumulated_small_batches_step_like_one_large_batch() -> None:
    x, y = torch.randn(50, 6), torch.randn(50, 1)
    data = from_arrays(train=(x, y), calibration=x, task="regression")
    config = TrainConfig(
        epochs=2, optimizer="sgd", batch_size=16, lr=0.1, schedule="constant", mixed_precision="off"
    )
    large, small = (nn.Linear(6, 1) for _ in range(2))
    small.load_state_dict(large.state_dict())
    train(large, data, config=config)
    train(small, data, config=config.model_copy(update={"batch_size": 4, "grad_accumulation": 4}))
    torch.testing.assert_close(small.weight, large.weight, rtol=1e-5, atol=1e-6)


def test_resumes_inside_an_epoch_to_the_same_weights(digits: Data, tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, lr=1e-2, checkpoint_every_steps=5, keep_best=True, grad_accumulation=2)
    whole = net()
    expected = train(whole, digits, config=config)

    class StopError(Exception):
        pass

    def stop_at(limit: int) -> object:
        def progress(label: str, done: int, total: int | None = None) -> None:
            if done >= limit:
                raise StopError

        return progress

    for limit in (7, 13, 22):
        with pytest.raises(StopError):
            train(net(), digits, config=config, checkpoint=tmp_path / "c.pt", progress=stop_at(limit))  # type: ignore[arg-type]
    resumed = net(seed=5)
    result = train(resumed, digits, config=config, checkpoint=tmp_path / "c.pt")
    assert same(state(whole), state(resumed))
    assert result.losses == expected.losses
    assert result.history == expected.history
    again = net(seed=6)
    finished = train(again, digits, config=config, checkpoint=tmp_path / "c.pt")
    assert same(state(again), state(whole))
    assert finished.steps == expected.steps
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.slow
def test_kill_at_random_moments_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path / f"{name}.pt"), str(tmp_path / f"{name}-final.pt")]
        )

    assert start("whole").wait(timeout=300) == 0
    chance = random.Random(os.getpid())
    checkpoint = tmp_path / "killed.pt"
    for _ in range(2):
        process = start("killed")
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > seen):
            time.sleep(0.005)
        time.sleep(chance.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start("killed").wait(timeout=300) == 0
    whole = torch.load(tmp_path / "whole-final.pt", weights_only=True)
    killed = torch.load(tmp_path / "killed-final.pt", weights_only=True)
    assert same(whole, killed)


def test_refuses_a_checkpoint_of_another_training(digits: Data, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    train(net(), digits, config=TrainConfig(max_steps=2), checkpoint=path)
    with pytest.raises(MethodError, match="another training"):
        train(net(), digits, config=TrainConfig(max_steps=2, lr=5e-3), checkpoint=path)
    with pytest.raises(MethodError, match="another training"):
        train(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            digits,
            config=TrainConfig(max_steps=2),
            checkpoint=path,
        )
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MethodError, match="cannot be read"):
        train(net(), digits, config=TrainConfig(max_steps=2), checkpoint=path)


def test_collapse_names_step_and_rate() -> None:
    x = torch.full((64, 4), 1e18)
    data = from_arrays(train=(x, torch.randn(64, 1)), calibration=x, task="regression", duplicates="ignore")
    with pytest.raises(MethodError, match=r"collapsed at step \d+ of 4 with learning rate .*Do: lower lr"):
        train(
            nn.Linear(4, 1), data, config=TrainConfig(epochs=4, optimizer="sgd", lr=1e3, schedule="constant")
        )


def test_early_stop_and_keep_best(digits: Data) -> None:
    calls: list[int] = []

    def worse(module: nn.Module, batch: object) -> torch.Tensor:
        calls.append(1)
        return sum(parameter.square().sum() for parameter in module.parameters())  # type: ignore[return-value]

    module = net()
    train(module, digits, config=TrainConfig(epochs=2, lr=5e-3))
    assert digits.calibration is not None
    good = evaluate(module, digits.calibration, digits.task).score
    result = train(
        module,
        digits,
        config=TrainConfig(epochs=9, lr=3e-2, schedule="constant", early_stop_patience=2, keep_best=True),
        loss=worse,
    )
    assert result.stopped_early
    assert result.epochs < 9
    assert result.best_score is not None
    assert result.best_score == evaluate(module, digits.calibration, digits.task).score
    assert result.best_score <= good + 0.05


def test_a_loss_of_ones_own_needs_no_labels() -> None:
    x = torch.randn(80, 5)
    data = from_arrays(train=x, task="embedding")
    teacher, student = nn.Linear(5, 3), nn.Linear(5, 3)

    def imitate(module: nn.Module, batch: object) -> torch.Tensor:
        inputs = batch.inputs  # type: ignore[attr-defined]
        return (call(module, inputs) - teacher(inputs).detach()).square().mean()

    config = TrainConfig(epochs=30, lr=5e-2, batch_size=16, keep_best=True, weight_decay=0, device="cpu")
    result = train(student, data, config=config, loss=imitate)
    torch.testing.assert_close(student.weight, teacher.weight, atol=2e-2, rtol=0)
    assert result.best_score is not None
    assert result.best_score > -1e-3


def test_way_out_where_it_cannot_train(digits: Data) -> None:
    frozen = net().requires_grad_(False)
    with pytest.raises(MethodError, match="no trainable parameter"):
        train(frozen, digits, config=TrainConfig())
    with pytest.raises(DataError, match="no train split"):
        train(net(), from_arrays(test=(np.zeros((4, 1)), np.arange(4))), config=TrainConfig())
    with pytest.raises(DataError, match="has no targets"):
        train(net(), from_arrays(train=np.zeros((8, 1, 8, 8))), config=TrainConfig())
    x = torch.randn(8, 2)
    data = from_arrays(train=(x, x), task="regression")
    with pytest.raises(RecipeError, match="label smoothing"):
        train(nn.Linear(2, 2), data, config=TrainConfig(label_smoothing=0.1))


def test_options_do_what_they_say(digits: Data) -> None:
    module = net()
    before = state(module)
    result = train(
        module,
        digits,
        config=TrainConfig(epochs=2, examples_per_epoch=100, batch_size=32, freeze_norm=True, grad_clip=0.1),
    )
    after = state(module)
    assert result.steps == 8
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["0.weight"], after["0.weight"])
    untouched = net()
    empty: TrainResult = train(untouched, digits, config=TrainConfig(epochs=0))
    assert empty.steps == 0
    assert same(state(untouched), before)


def test_modes_of_submodules_come_back(digits: Data) -> None:
    module = net().train()
    module[1].eval()
    train(module, digits, config=TrainConfig(max_steps=1))
    assert module.training
    assert not module[1].training


def test_bf16_on_a_cpu_learns(digits: Data) -> None:
    result = train(net(), digits, config=TrainConfig(epochs=2, lr=3e-3, mixed_precision="bf16"))
    assert result.losses[-1] < result.losses[0] / 2
    with pytest.raises(MethodError, match="fp16 training needs a GPU"):
        train(net(), digits, config=TrainConfig(mixed_precision="fp16", device="cpu"))
