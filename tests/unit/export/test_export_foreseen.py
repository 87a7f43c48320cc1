"""What is refused by names alone must be what the exporters really refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lwplugin.data import Data
from lwplugin.errors import ExportError
from lwplugin.export import FORMATS, export, foreseen
from lwplugin.export.handover import hand_over
from lwplugin.methods import methods
from lwplugin.quantize import quantize
from lwplugin.registry import serving


def test_formats_called_served_are_those_that_a_registered_version_runs() -> None:
    assert {name for name, form in FORMATS.items() if form.served} == set(serving.RUNTIMES)
    assert {form for form in FORMATS if foreseen.registered(form) is None} == set(serving.RUNTIMES)


def test_torch_s_formats_hold_no_quantized_layer_of_any_method() -> None:
    assert all(foreseen.quantized("torch_export", method, {}) for method in methods("quantize"))


@pytest.mark.parametrize(
    "how",
    [
        {"method": "weight_only", "rounding": "nearest"},
        {"method": "codebook", "bits": 4},
        {"method": "half", "dtype": "bfloat16"},
    ],
    ids=lambda how: how["method"],
)
def test_what_is_foreseen_is_what_the_exporters_refuse(
    how: dict[str, Any], trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, **how)
    options = {key: value for key, value in how.items() if key != "method"}
    said = {form for form in FORMATS if foreseen.quantized(form, how["method"], options)}
    found = set()
    for form in ("torch_export", "openvino"):
        try:
            export(light, digits_data, format=form, path=tmp_path / form, parity=False)
        except ExportError:
            found.add(form)
    with pytest.raises(ExportError, match="No kernel here reads"):
        hand_over(light, digits_data, tmp_path / "m.pt2", examples=2, batch=1, weights_as_integers=False)
    assert said <= found | {"aotinductor", "executorch", "tflite"}


def test_layers_decide_where_some_are_spared() -> None:
    assert foreseen.quantized("tflite", "weight_only", {"skip": ["encoder.*"]}) is None
    assert foreseen.quantized("tflite", "int8", {}) is None


def test_devices_that_a_format_does_not_run_on() -> None:
    assert foreseen.device("onnx", "cuda") is None
    assert foreseen.device("tflite", "jetson") is None  # the inventory knows it
    assert "'cuda'" in str(foreseen.device("tensorrt", "cpu"))
