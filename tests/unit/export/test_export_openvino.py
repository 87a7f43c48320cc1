from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.errors import ExportError, MissingExtraError, RecipeError
from lwplugin.export import Exported, export, load_exported
from lwplugin.export import onnx as onnx_format
from lwplugin.measure.layer_names import layer_of, layers_of
from lwplugin.measure.runtimes.base import create
from lwplugin.measure.subject import Subject
from lwplugin.quantize import quantize
from lwplugin.quantize.packed import PackedLayer

openvino = pytest.importorskip("openvino")


def answers(exported: Exported, x: torch.Tensor, *, optimize: bool = True) -> np.ndarray:
    runtime = create("openvino")
    runtime.load(str(exported.file), device="cpu", threads=1, optimize=optimize, output=exported.output)
    return runtime.run({"input": x.numpy()})


@pytest.fixture(scope="module")
def floating(trained_net: nn.Module, digits_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("float")
    return export(trained_net, digits_data, format="openvino", path=path, metadata={"labels": "0,1,2"})


@pytest.fixture(scope="module")
def integer(trained_net: nn.Module, digits_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    light = quantize(trained_net, digits_data, reduce_range=True)
    return export(light, digits_data, format="openvino", path=tmp_path_factory.mktemp("int8"))


def test_float_file_answers_as_the_model_at_any_batch(
    floating: Exported, trained_net: nn.Module, digits_data: Data
) -> None:
    for count in (1, 3, 100):
        x = next(digits_data.need("test").batches(count)).inputs
        with torch.no_grad():
            expected = trained_net(x).numpy()
        assert np.abs(answers(floating, x) - expected).max() < 1e-4
    assert floating.meta["parity"]["max_abs_error"] < 1e-4


def test_description_names_both_files_and_the_facts_are_inside(floating: Exported) -> None:
    assert load_exported(floating.path) == floating
    document = json.loads((floating.path / "export.json").read_text())
    assert document["file"] == "model.xml"
    assert document["beside"] == ["model.bin"]
    told = openvino.Core().read_model(str(floating.file)).get_rt_info(["lwplugin", "labels"])
    assert told.astype(str) == "0,1,2"


def test_size_counts_the_weights(floating: Exported, integer: Exported) -> None:
    subject = Subject.of(floating.path)
    assert subject.size_bytes() == sum((floating.path / n).stat().st_size for n in ("model.xml", "model.bin"))
    assert (integer.path / "model.bin").stat().st_size < 0.35 * (floating.path / "model.bin").stat().st_size


def test_changed_weights_are_refused(floating: Exported, tmp_path: Path) -> None:
    for name in ("export.json", "model.xml", "model.bin"):
        (tmp_path / name).write_bytes((floating.path / name).read_bytes())
    load_exported(tmp_path)
    weights = bytearray((tmp_path / "model.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "model.bin").write_bytes(bytes(weights))
    with pytest.raises(ExportError, match="not the file that was exported"):
        load_exported(tmp_path)


def test_weights_cannot_be_dropped_from_the_description(floating: Exported, tmp_path: Path) -> None:
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).write_bytes((floating.path / name).read_bytes())
    document = json.loads((floating.path / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps({**document, "beside": []}))
    with pytest.raises(ExportError, match="not the file that was exported"):
        load_exported(tmp_path)
    (tmp_path / "export.json").write_text(json.dumps({**document, "beside": ["../model.bin"]}))
    with pytest.raises(ExportError, match="not in its directory"):
        load_exported(tmp_path)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_same_model_gives_the_same_bytes(
    quantized: bool,
    floating: Exported,
    integer: Exported,
    trained_net: nn.Module,
    digits_data: Data,
    tmp_path: Path,
) -> None:
    model = quantize(trained_net, digits_data, reduce_range=True) if quantized else trained_net
    again = export(
        model,
        digits_data,
        format="openvino",
        path=tmp_path,
        parity=False,
        metadata={} if quantized else {"labels": "0,1,2"},
    )
    assert again.digest == (integer if quantized else floating).digest


def test_integer_file_keeps_the_bundle_s_integers_and_the_accuracy(
    integer: Exported, floating: Exported, digits_data: Data
) -> None:
    batch = next(digits_data.need("test").batches(1000))
    scores = {
        name: float((answers(exported, batch.inputs).argmax(1) == batch.targets.numpy()).mean())
        for name, exported in (("float", floating), ("int8", integer))
    }
    assert scores["int8"] >= scores["float"] - 0.015
    assert integer.meta["parity"]["sqnr_db"] > 20
    assert integer.meta["parity"]["kernel_sqnr_db"] > 30
    assert integer.scheme["largest_weight"] <= 64


def test_the_layers_run_in_integer_kernels_and_their_simulation_in_float(integer: Exported) -> None:
    def precisions(settings: dict[str, object]) -> set[str]:
        compiled = openvino.Core().compile_model(str(integer.file), "CPU", settings)
        infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
        kernels = [info for info in infos if info["layerType"].value in ("Convolution", "FullyConnected")]
        assert len(kernels) == 4
        return {info["runtimePrecision"].value for info in kernels}

    assert precisions({"INFERENCE_PRECISION_HINT": "f32"}) <= {"u8", "i8"}
    assert precisions({"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": False}).isdisjoint({"u8"})


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.second(self.first(x).relu()) + x).relu()
        return self.head(x).mean((2, 3))


def test_what_a_convolution_gives_an_addition_is_not_rounded(digits_data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    light = quantize(Block(), digits_data, rounding="nearest", bias_correction=False)
    exported = export(light, digits_data, format="openvino", path=tmp_path)
    model = openvino.Core().read_model(str(exported.file))
    parents = [
        [port.get_source_output().get_node().get_type_name() for port in node.inputs()]
        for node in model.get_ops()
        if node.get_friendly_name().startswith("node_add")
    ]
    assert [kinds.count("FakeQuantize") for kinds in parents] == [1]
    assert exported.meta["parity"]["sqnr_db"] > 30


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_weight_only_groups_stay_small_and_answer_as_the_bundle(
    bits: int, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, method="weight_only", bits=bits, group_size=16)
    exported = export(light, digits_data, format="openvino", path=tmp_path)
    assert exported.meta["parity"]["max_abs_error"] < 1e-3
    constants = openvino.Core().read_model(str(exported.file)).get_ordered_ops()
    kinds = {node.get_output_element_type(0).get_type_name() for node in constants}
    assert ("u4" in kinds) is (bits <= 4)
    assert ("u8" in kinds) is (bits == 8)
    x = next(digits_data.need("test").batches(50)).inputs
    with torch.no_grad():
        assert np.abs(answers(exported, x) - light.module(x).numpy()).max() < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights_are_stored_as_the_bundle_has_them_and_widened_when_compiled(
    dtype: str, floating: Exported, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, method="half", dtype=dtype)
    exported = export(light, digits_data, format="openvino", path=tmp_path)
    assert exported.meta["parity"]["max_abs_error"] < 1e-4
    weights = {name: layer for name, layer in light.module.named_modules() if isinstance(layer, PackedLayer)}
    stored = [
        node
        for node in openvino.Core().read_model(str(exported.file)).get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_size() == 2
    ]
    assert len(stored) == len(weights) == 4
    assert (exported.path / "model.bin").stat().st_size < 0.6 * (floating.path / "model.bin").stat().st_size
    compiled = openvino.Core().compile_model(str(exported.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [node.get_rt_info()["layerType"].value for node in compiled.get_runtime_model().get_ops()]
    assert "Convert" not in kinds, "weights would be widened at every run"
    assert kinds.count("Eltwise") == 1, "batch norms are folded; only the residual addition is left"


def test_layers_that_read_their_own_range_stay_in_8_bits_on_disk(
    tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).eval()
    x = np.random.default_rng(0).standard_normal((60, 64)).astype(np.float32)
    data = from_arrays(calibration=(x[:40], None), test=(x[40:], None), task="embedding")
    light = quantize(net, data, activations="dynamic")
    exported = export(light, data, format="openvino", path=tmp_path)
    assert exported.meta["parity"]["sqnr_db"] > 60
    assert (tmp_path / "model.bin").stat().st_size < 1.2 * (64 * 128 + 128 * 64)
    assert "2 layers were rounded for the range of the values at hand" in heard.text


def test_the_file_tells_which_kernel_computes_which_layer_over_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)).eval()
    x = np.random.default_rng(0).standard_normal((40, 5, 8)).astype(np.float32)
    exported = export(net, from_arrays(test=(x, None), task="regression"), format="openvino", path=tmp_path)
    model = openvino.Core().compile_model(str(exported.file), "CPU").get_runtime_model()
    products = [node for node in model.get_ops() if node.get_rt_info()["layerType"].value == "FullyConnected"]
    layers = layers_of(exported.file, "openvino")
    assert {layer_of(node.get_friendly_name(), layers) for node in products} == {"0", "2"}


def test_packings_that_openvino_misreads_are_refused_with_the_reason(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, method="codebook", bits=4)
    with pytest.raises(ExportError, match="does not read this packing"):
        export(light, digits_data, format="openvino", path=tmp_path, parity=False)
    assert not (tmp_path / "export.json").exists()


def test_two_named_inputs(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return self.head(left - 2 * right)

    left, right = np.random.default_rng(0).standard_normal((2, 40, 3)).astype(np.float32)
    data = from_arrays(test=({"left": left, "right": right}, np.arange(40) % 4))
    exported = export(Pair(), data, format="openvino", path=tmp_path)
    assert list(exported.inputs) == ["left", "right"]
    assert exported.meta["parity"]["max_abs_error"] < 1e-5


def test_a_graph_that_openvino_cannot_read_is_refused_with_its_reason(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_format.graph_of

    def with_an_unknown_operator(*arguments: Any, **layout: Any) -> onnx_format.Graph:
        graph = real(*arguments, **layout)
        graph.proto.graph.node[-1].domain = "nobody"
        opset = graph.proto.opset_import.add()
        opset.domain, opset.version = "nobody", 1
        return graph

    monkeypatch.setattr(onnx_format, "graph_of", with_an_unknown_operator)
    level = logging.root.level
    with pytest.raises(ExportError, match="OpenVINO cannot convert"):
        export(trained_net, digits_data, format="openvino", path=tmp_path)
    assert not (tmp_path / "export.json").exists()
    assert logging.root.level == level


def test_without_the_package_the_extra_is_named(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lwplugin\[openvino\]"):
        export(trained_net, digits_data, format="openvino", path=tmp_path)


def test_onnx_options_are_refused(trained_net: nn.Module, digits_data: Data, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="scheme"):
        export(trained_net, digits_data, format="openvino", path=tmp_path, scheme="tensorrt")


def test_a_fresh_process_without_torch_runs_it(integer: Exported) -> None:
    code = (
        "import sys, numpy as np; from lwplugin.measure.runtimes.base import create; r = create('openvino');"
        f"r.load({str(integer.file)!r}, device='cpu', threads=1, optimize=True, output='output');"
        "print(r.run({'input': np.zeros((2, 1, 8, 8), np.float32)}).shape, 'torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "(2, 10) False"
