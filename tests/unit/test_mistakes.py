"""Mistakes people make in a notebook, and what the Python interface says to each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import lwplugin
from lwplugin.errors import DataError, MeasureError, MethodError, ModelError, RecipeError

INPUTS = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
LABELS = (INPUTS[:, 0] > 0).astype("int64")


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


def data(inputs: np.ndarray = INPUTS) -> lwplugin.data.Data:
    return lwplugin.data.from_arrays(train=(inputs[:150], LABELS[:150]), test=(inputs[150:], LABELS[150:]))


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong, path: lwplugin.prune(net(), wrong, macs=0.5),
        lambda wrong, path: lwplugin.factorize(net(), wrong, params=0.5),
        lambda wrong, path: lwplugin.quantize(net(), wrong),
        lambda wrong, path: lwplugin.distill(net(), wrong, teacher=net()),
        lambda wrong, path: lwplugin.export(net(), wrong, path=path),
        lambda wrong, path: lwplugin.measure(path, wrong),
    ],
)
@pytest.mark.parametrize("wrong", [INPUTS, (INPUTS, LABELS), None])
def test_arrays_are_no_data(call: Callable[[Any, Path], Any], wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no lwplugin\.data\.Data: got a (ndarray|tuple|NoneType)\..*from_arrays"
    ):
        call(wrong, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "kind"), [("models:/net@champion", "str"), (data(), "Data"), (nn.Linear, "type")]
)
def test_what_is_no_model_says_how_to_get_one(wrong: Any, kind: str) -> None:
    with pytest.raises(ModelError, match=rf"Not a model: got a {kind}\. Do: .*lwplugin\.load reads a bundle"):
        lwplugin.prune(wrong, data(), macs=0.5)


def test_nan_in_the_inputs_is_named() -> None:
    with pytest.raises(ModelError, match="answers NaN"):
        lwplugin.prune(net(), data(np.full_like(INPUTS, np.nan)), macs=0.5)


def test_one_nan_is_told_with_its_row_not_as_a_rate_too_high(tmp_path: Path) -> None:
    inputs = INPUTS.copy()
    inputs[[3, 160]] = np.nan
    some = lwplugin.data.from_arrays(
        train=(inputs[:150], LABELS[:150]),
        test=(inputs[150:], LABELS[150:]),
        calibration=(INPUTS[:32], LABELS[:32]),
    )
    with pytest.raises(DataError, match="train hold NaN or infinity: got 1 of 150, the first in row 3"):
        lwplugin.prune(net(), some, macs=0.5, method="magnitude", finetune_epochs=1)
    file = lwplugin.export(net(), some, path=tmp_path)
    with pytest.raises(DataError, match="test split hold NaN or infinity: got 1 of 50"):
        lwplugin.measure(file, some, max_seconds=0.2, min_seconds=0.1)


def test_bytes_that_the_model_does_not_take_are_no_fault_of_torchs_exporter(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (40, 3, 6, 6), np.uint8)
    data = lwplugin.data.from_arrays(train=(pictures, np.arange(40) % 2), calibration=pictures)
    with pytest.raises(ModelError, match=r"uint8 \[1, 3, 6, 6\].*give floats, scaled as in training"):
        lwplugin.export(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), data, path=tmp_path)
    assert capfd.readouterr().err == ""


def test_a_missing_budget_and_a_bundle_that_is_not_there_are_told_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as budget:
        lwplugin.prune(net(), data())
    assert str(budget.value).startswith(
        "The options of method 'reconstruct' are wrong. Do: give exactly one budget: macs, params or latency"
    )
    with pytest.raises(ModelError) as bundle:
        lwplugin.load(tmp_path / "absent")
    assert (
        str(bundle.value)
        == f"There is no bundle: got {tmp_path / 'absent'}. Do: give the directory that was saved."
    )


def test_a_class_of_the_notebook_is_worked_on_and_saving_says_what_it_needs(tmp_path: Path) -> None:
    class Local(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

        def forward(self, inputs: Any) -> Any:
            return self.body(inputs)

    light = lwplugin.prune(Local(16), data(), macs=0.5)
    with pytest.raises(ModelError, match=r"lwplugin\.light\(model, origin=lwplugin\.FactoryOrigin"):
        light.save(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("policy", "budget", "said"),
    [
        (
            {"max_drp": {"accuracy": 0.1}},
            None,
            "The gate has no option of this name: got 'max_drp'. Do: did you mean",
        ),
        ({"max_drop": {"accuracy": 0.1}}, {"p95": 5}, "The budget has no option of this name: got 'p95'"),
    ],
)
def test_a_misspelt_key_of_a_policy_names_the_nearest(
    policy: dict[str, Any], budget: dict[str, Any] | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        lwplugin.gate(tmp_path, policy, budget=budget)
    assert said in str(caught.value)


def test_labels_by_name_say_how_to_number_them() -> None:
    names = np.where(LABELS == 1, "cat", "dog")
    with pytest.raises(
        DataError, match=r"Labels must be numbers: got names such as '(cat|dog)'.*return_inverse"
    ):
        lwplugin.data.from_arrays(train=(INPUTS, names))


@pytest.mark.parametrize("method", ["int8", "weight_only"])
@pytest.mark.parametrize(
    "call",
    [
        lambda model: lwplugin.prune(model, data(), macs=0.5),
        lambda model: lwplugin.factorize(model, data(), params=0.5),
        lambda model: lwplugin.quantize(model, data()),
    ],
)
def test_what_needs_float_weights_says_that_they_are_quantized(
    call: Callable[[Any], Any], method: str
) -> None:
    light = lwplugin.quantize(net(), data(), method=method, **({} if method == "int8" else {"bits": 8}))
    with pytest.raises(
        MethodError,
        match=r"got layers that are quantized already, '0' and 1 more\. Do: begin with the model as it",
    ):
        call(light)


def test_a_model_is_not_measured_and_a_number_is_no_policy() -> None:
    with pytest.raises(
        MeasureError, match=r"Only exported files are measured: got a LightModel\. Do: export it first"
    ):
        lwplugin.measure(lwplugin.light(net()), data())
    with pytest.raises(RecipeError, match=r"The gate is a mapping: got 0\.01\. Do: write {'max_drop': …}"):
        lwplugin.gate({}, 0.01)


def test_a_name_is_no_origin_and_a_registered_version_no_bundle() -> None:
    with pytest.raises(
        ModelError, match=r"Not an origin: got a str\. Do: name what builds .*FactoryOrigin\("
    ):
        lwplugin.light(net(), origin="nets:Net")  # type: ignore[arg-type]
    with pytest.raises(
        ModelError, match=r"got models:/net@champion\. Do: bring it here first, with lwplugin\.registry"
    ):
        lwplugin.load("models:/net@champion")
