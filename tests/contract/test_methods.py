"""What every compression method promises, on one table of settings: a new method is one more row."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from torch import nn

import lwplugin
from lwplugin.data import Data, evaluate, load
from lwplugin.distill import METHODS as DISTILL
from lwplugin.errors import MethodError, RecipeError
from lwplugin.factorize import METHODS as FACTORIZE
from lwplugin.model.bundle import LightModel
from lwplugin.prune import METHODS as PRUNE
from lwplugin.quantize import METHODS as QUANTIZE
from lwplugin.training import TrainConfig, train

HERE = Path(__file__).parent
ANSWER = """
import hashlib, sys, torch, lwplugin
torch.set_num_threads(1)
light = lwplugin.load(sys.argv[1])
with torch.no_grad():
    out = light.module(torch.load(sys.argv[2], weights_only=True))
print(hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""


@dataclass(frozen=True)
class Row:
    family: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    least_accuracy: float = 0.85
    typo: str = "sed"
    network: str = "Residual"
    floor: str = "at its floor"


ROWS = [
    Row("prune", "reconstruct", {"macs": 0.5}),
    Row("prune", "taylor", {"macs": 0.5}),
    Row("prune", "magnitude", {"macs": 0.6}, least_accuracy=0.6),
    Row("prune", "activation", {"macs": 0.5}),
    Row("prune", "attention", {"macs": 0.6}),
    Row("prune", "layer", {"macs": 0.6}, network="Blocks", floor="with all 4 blocks gone"),
    Row("prune", "hybrid", {"macs": 0.4, "splits": 3}, network="Blocks"),
    Row("prune", "iterative", {"macs": 0.5, "rounds": 2}),
    Row("prune", "search", {"macs": 0.5, "evaluations": 8, "population": 4}),
    Row("prune", "adversarial", {"macs": 0.6, "mask_steps": 20}),
    Row("factorize", "svd", {"params": 0.5}),
    Row("factorize", "pca", {"params": 0.5}),
    Row("factorize", "tucker", {"params": 0.5}),
    Row("distill", "soft", {"epochs": 2}),
    Row(
        "distill",
        "soft",
        {"epochs": 10, "lr": 1e-2, "student": {"module": "networks:Residual", "args": {"width": 8}}},
    ),
    Row("distill", "hard", {"epochs": 2}),
    Row("distill", "feature", {"epochs": 2}),
    Row("distill", "feature", {"epochs": 2, "kind": "hint"}),
    Row("distill", "dynamic", {"epochs": 2}),
    Row("distill", "gradient", {"epochs": 2}),
    Row("distill", "bootstrap", {"epochs": 1}),
    Row("distill", "cross_modal", {"epochs": 2}),
    Row("quantize", "int8", typo="calibratr"),
    Row("quantize", "qat", {"finetune_epochs": 1}, typo="weight_bit"),
    Row("quantize", "half", typo="dtyp"),
    Row("quantize", "binary", {"finetune_epochs": 3, "finetune_lr": 5e-3}),
    Row("quantize", "binary_learned", {"finetune_epochs": 3, "finetune_lr": 5e-3}),
    Row("quantize", "codebook", {"bits": 4, "finetune_epochs": 1}),
    Row("quantize", "weight_only", {"bits": 4, "group_size": 16}, typo="bit"),
    Row("quantize", "weight_only", {"bits": 4, "group_size": 16, "rounding": "adaround"}, typo="bit"),
    Row(
        "quantize",
        "weight_only",
        {"bits": 4, "group_size": 16},
        typo="bit",
        network="Kinds",
        least_accuracy=0.8,
    ),
]
ALL = pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.family}-{r.method}")
PRUNES = pytest.mark.parametrize("row", [r for r in ROWS if r.family == "prune"], ids=lambda r: r.method)
FACTORIZES = pytest.mark.parametrize(
    "row", [r for r in ROWS if r.family == "factorize"], ids=lambda r: r.method
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def digits() -> Data:
    return load({"source": "digits", "calibration": 256}, "classification")


@pytest.fixture
def data() -> Data:
    return digits()


@cache
def trained(network: str) -> LightModel:
    torch.manual_seed(0)
    net = getattr(networks, network)()
    train(net, digits(), config=TrainConfig(epochs=15, lr=1e-2, schedule="onecycle"))
    return lwplugin.light(net.eval(), origin=lwplugin.FactoryOrigin(f"networks:{network}", {}))


@pytest.fixture
def model(row: Row) -> LightModel:
    return trained(row.network)


def run(row: Row, model: LightModel | nn.Module, data: Data, **more: Any) -> LightModel:
    teacher = {"teacher": model} if row.family == "distill" else {}
    if row.method == "cross_modal":
        teacher["paired"] = data  # type: ignore[assignment]
    light: LightModel = getattr(lwplugin, row.family)(
        model, data, method=row.method, **{**row.options, **teacher, **more}
    )
    return light


@cache
def _made(position: int) -> LightModel:
    return run(ROWS[position], trained(ROWS[position].network), digits())


def made(row: Row) -> LightModel:
    """What the row makes, worked out once; tests that only look at it share it."""
    return _made(next(position for position, other in enumerate(ROWS) if other is row))


def digest(module: nn.Module) -> str:
    state = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        state.update(name.encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def test_every_method_has_a_row() -> None:
    families = {"prune": PRUNE, "factorize": FACTORIZE, "distill": DISTILL, "quantize": QUANTIZE}
    assert {(r.family, r.method) for r in ROWS} == {
        (f, m) for f, methods in families.items() for m in methods
    }


@ALL
def test_same_seed_same_weights_and_the_argument_is_untouched(
    row: Row, model: LightModel, data: Data
) -> None:
    before = digest(model.module)
    first, second = made(row), run(row, model, data)
    assert digest(first.module) == digest(second.module) != before
    assert digest(model.module) == before
    assert model.history == ()
    assert first.history[-1].seed == first.history[-1].config.get("seed")


@ALL
def test_good_enough_and_written_down(row: Row, model: LightModel, data: Data) -> None:
    light = made(row)
    assert evaluate(light.module, data.need("test"), data.task).metrics["accuracy"] >= row.least_accuracy
    entry = light.history[-1]
    assert (entry.step, entry.method) == (row.family, row.method)
    assert entry.details["layers"]
    assert all(entry.config[name] == value for name, value in row.options.items())


@ALL
def test_reloads_bit_identically_in_a_fresh_process(
    row: Row, model: LightModel, data: Data, tmp_path: Path
) -> None:
    light, inputs = made(row), data.example(8)
    light.save(tmp_path / "bundle")
    torch.save(inputs, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", ANSWER, str(tmp_path / "bundle"), str(tmp_path / "inputs.pt")]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = light.module(inputs)
    assert done.stdout.strip() == hashlib.sha256(expected.numpy().tobytes()).hexdigest()


@ALL
def test_exports_with_parity(row: Row, model: LightModel, data: Data, tmp_path: Path) -> None:
    exported = lwplugin.export(made(row), data, format="onnx", path=tmp_path / "onnx")
    assert exported.file.is_file()


@ALL
def test_an_unknown_option_is_named_with_the_nearest_known(row: Row, model: LightModel, data: Data) -> None:
    with pytest.raises(RecipeError, match="did you mean"):
        run(row, model, data, **{row.typo: 1})


@PRUNES
def test_a_collapsed_model_is_refused(row: Row, model: LightModel, data: Data) -> None:
    with pytest.raises(MethodError, match="agree with the parent's on"):
        run(row, model, data, macs=0.1, repair=False, recalibrate=False, collapse=0.99)


@PRUNES
def test_an_unreachable_budget_says_what_can_be_reached(row: Row, model: LightModel, data: Data) -> None:
    with pytest.raises(MethodError, match=row.floor):
        run(row, model, data, macs=0.001)


@FACTORIZES
def test_a_collapsed_product_is_refused(row: Row, model: LightModel, data: Data) -> None:
    with pytest.raises(MethodError, match="agree with the parent's on"):
        run(row, model, data, params=0.35, repair=False, collapse=1.0)


@FACTORIZES
def test_an_unreachable_rank_budget_says_what_is_left(row: Row, model: LightModel, data: Data) -> None:
    with pytest.raises(MethodError, match="at its floor"):
        run(row, model, data, params=0.01)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.family != "quantize" or r.method == "qat"], ids=lambda r: r.method
)
def test_an_interrupted_finetuning_goes_on_and_ends_the_same(
    row: Row, model: LightModel, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwplugin.training.loop._Run._due", lambda self: self.checkpoint is not None)
    longer = {"epochs" if row.family == "distill" else "finetune_epochs": 3}
    whole = run(row, model, data, **longer)

    class StopError(Exception):
        pass

    def interrupt(label: str, done: int, total: int | None = None) -> None:
        if total is not None and total > 10 and "train" in label and done > total // 2:
            raise StopError

    with pytest.raises(StopError):
        run(row, model, data, **longer, checkpoint=tmp_path / "state", progress=interrupt)
    assert list(tmp_path.glob("state*"))
    resumed = run(row, model, data, **longer, checkpoint=tmp_path / "state")
    assert digest(resumed.module) == digest(whole.module)
    assert copy.copy(resumed.history[-1].metrics) == whole.history[-1].metrics
