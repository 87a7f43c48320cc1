"""Training in two real processes over gloo: the same steps as in one, the same bundle form, the same errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lwplugin.components import step_named
from lwplugin.components.step import Artifact, execute

import lwplugin
from lwplugin.artifact import Store
from lwplugin.data import evaluate, load
from lwplugin.errors import MethodError
from lwplugin.training import TrainConfig, train

NETWORKS = Path(__file__).parents[2] / "contract"
TRAIN = """
import sys, torch
import torch.distributed as dist
from pathlib import Path
from lwplugin.data import load
from lwplugin.training import TrainConfig, train
from test_several import config, net

torch.set_num_threads(1)
dist.init_process_group("gloo")
module = net()
if dist.get_rank():
    torch.nn.init.zeros_(module[1].weight)  # the first process's weights are everybody's
result = train(module, load({"source": "digits"}, "classification"), config=config(), checkpoint=Path(sys.argv[1]))
torch.save({"weights": module.state_dict(), "losses": result.losses}, f"{sys.argv[2]}.{dist.get_rank()}")
"""


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 32),
        torch.nn.LayerNorm(32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 10),
    )


def config() -> TrainConfig:
    return TrainConfig(
        epochs=2,
        lr=1e-2,
        batch_size=50,
        grad_accumulation=2,
        grad_clip=1.0,
        checkpoint_every_steps=7,
        keep_best=True,
    )


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    whole = net()
    expected = train(whole, load({"source": "digits"}, "classification"), config=config())
    (tmp_path / "program.py").write_text(TRAIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(tmp_path / "program.py"), str(tmp_path / "state"), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=_environment(Path(__file__).parent), capture_output=True)
    first, second = (torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in (0, 1))
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(expected.losses, rel=1e-3, abs=1e-5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=1e-3, atol=1e-4)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_step_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NETWORKS))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(NETWORKS))
    import networks

    torch.manual_seed(1)
    data = load({"source": "digits"}, "classification")
    parent = networks.Residual()
    train(parent, data, config=TrainConfig(epochs=6, lr=1e-2, schedule="onecycle"))
    origin = lwplugin.FactoryOrigin("networks:Residual", {})
    lwplugin.light(parent.eval(), origin=origin).save(tmp_path / "pulled" / "bundle")
    inputs, store, step = (
        {"bundle": Artifact.of(tmp_path / "pulled")},
        Store(tmp_path / "store"),
        step_named("prune"),
    )
    given = {"data": {"source": "digits"}, "task": "classification", "method": "magnitude"}
    seen: list[str] = []

    options = {"macs": 0.6, "finetune_epochs": 2, "finetune_lr": 5e-3}
    chosen = step.config.model_validate({**given, "options": options})
    progress = lambda label, done, total=None: seen.append(label)  # noqa: E731
    done = execute(step, chosen, inputs, store, progress=progress, processes=2)
    light = lwplugin.load(done.path / "bundle")
    assert light.history[-1].metrics["finetune_steps"] > 0
    assert evaluate(light.module, data.need("test"), data.task).metrics["accuracy"] > 0.9
    assert "train" in seen
    assert execute(step, chosen, inputs, store, processes=1).hit

    wrong = step.config.model_validate({**given, "options": {"macs": 0.6, "skip": ["no-such-layer"]}})
    with pytest.raises(MethodError, match="no-such-layer"):
        execute(step, wrong, inputs, store, processes=2)


def _environment(*paths: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
