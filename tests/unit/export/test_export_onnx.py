from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.errors import ExportError, RecipeError
from lwplugin.export import Exported, export, load_exported
from lwplugin.quantize import quantize


def session(file: Path, level: str = "ORT_ENABLE_ALL", optimized: Path | None = None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(file)).graph.node)


@pytest.fixture(scope="module")
def floating(trained_net: nn.Module, digits_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(
        trained_net, digits_data, path=tmp_path_factory.mktemp("float"), metadata={"labels": "0,1,2"}
    )


@pytest.fixture(scope="module")
def integer(trained_net: nn.Module, digits_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    light = quantize(trained_net, digits_data, reduce_range=True)
    return export(light, digits_data, path=tmp_path_factory.mktemp("int8"))


def test_float_file_answers_as_the_model_at_any_batch(
    floating: Exported, trained_net: nn.Module, digits_data: Data
) -> None:
    ran = session(floating.file)
    for count in (1, 3, 100):
        x = next(digits_data.need("test").batches(count)).inputs
        with torch.no_grad():
            expected = trained_net(x).numpy()
        got = ran.run([floating.output], {"input": x.numpy()})[0]
        assert np.abs(got - expected).max() < 1e-4
    assert floating.meta["parity"]["max_abs_error"] < 1e-4


def test_description_is_read_back(floating: Exported) -> None:
    assert load_exported(floating.path) == floating
    document = json.loads((floating.path / "export.json").read_text())
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 1, 8, 8]}]
    assert document["output"] == "output"
    assert document["scheme"] is None
    facts = {entry.key: entry.value for entry in onnx.load(str(floating.file)).metadata_props}
    assert facts["labels"] == "0,1,2"
    assert "lwplugin.version" in facts


def test_a_changed_file_is_refused(floating: Exported, tmp_path: Path) -> None:
    for name in ("export.json", floating.file.name):
        (tmp_path / name).write_bytes((floating.path / name).read_bytes())
    with (tmp_path / floating.file.name).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ExportError, match="not the file that was exported"):
        load_exported(tmp_path)


@pytest.mark.parametrize("name", ["../model.onnx", "missing.onnx"])
def test_a_description_cannot_point_elsewhere(name: str, floating: Exported, tmp_path: Path) -> None:
    document = json.loads((floating.path / "export.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps({**document, "file": name}))
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
        model, digits_data, path=tmp_path, parity=False, metadata={} if quantized else {"labels": "0,1,2"}
    )
    assert again.digest == (integer if quantized else floating).digest


def test_integer_file_keeps_the_accuracy_in_the_real_kernels(
    integer: Exported, floating: Exported, digits_data: Data
) -> None:
    batch = next(digits_data.need("test").batches(1000))
    scores = {}
    for name, file in (("float", floating.file), ("int8", integer.file)):
        got = session(file).run(None, {"input": batch.inputs.numpy()})[0]
        scores[name] = float((got.argmax(1) == batch.targets.numpy()).mean())
    assert scores["int8"] >= scores["float"] - 0.015


def test_kernels_answer_as_their_simulation_with_reduced_range(integer: Exported) -> None:
    assert integer.meta["parity"]["kernel_sqnr_db"] > 30
    assert integer.meta["parity"]["simulation_sqnr_db"] > 20
    assert integer.scheme["largest_weight"] <= 64


def test_everything_between_input_and_output_runs_on_integers(integer: Exported, tmp_path: Path) -> None:
    optimized = tmp_path / "optimized.onnx"
    session(integer.file, optimized=optimized)
    found = operators(optimized)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 1
    assert found["QGemm"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "Add", "Relu", "Clip", "Gemm"} & set(found)


def test_a_tensor_has_one_pair_and_activations_are_fused(integer: Exported) -> None:
    found = operators(integer.file)
    assert found["Relu"] == found["Clip"] == 0
    graph = onnx.load(str(integer.file)).graph
    sources = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))


def test_integer_weights_are_the_bundle_s_own(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data)
    file = export(light, digits_data, path=tmp_path, parity=False).file
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer}
    for name in ("stem", "inner", "depthwise.0", "head"):
        layer = light.module.get_submodule(name)
        assert np.array_equal(stored[f"{name}.weight_quantized"], layer.integers().numpy())
        assert stored[f"{name}.bias_quantized"].dtype == np.int32


def test_tensorrt_scheme_is_symmetric_with_float_bias(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, reduce_range=False)
    made = export(light, digits_data, path=tmp_path, scheme="tensorrt")
    assert made.scheme["name"] == "s8s8"
    graph = onnx.load(str(made.file)).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = stored[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    assert not any(array.dtype == np.int32 for array in stored.values())
    x = next(digits_data.need("test").batches(200)).inputs
    got = session(made.file, "ORT_DISABLE_ALL").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        assert (got.argmax(1) == light.module(x).argmax(1).numpy()).mean() > 0.97


class Sequence(nn.Module):
    """Linear layers on [n, length, features], a keyword input, a dict output, GELU and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        weight = mask.unsqueeze(-1).to(y.dtype)
        return {"logits": self.head((y * weight).sum(1) / weight.sum(1))}


@pytest.mark.parametrize("quantized", [False, True])
def test_named_inputs_and_layers_on_sequences(quantized: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(80, 12, 16)
    mask = (torch.arange(12)[None] < torch.randint(3, 12, (80, 1))).long()
    data = from_arrays(calibration=({"x": x, "mask": mask}, torch.zeros(80, dtype=torch.long)))
    net: nn.Module = Sequence().eval()
    made = export(quantize(net, data) if quantized else net, data, path=tmp_path / "out")
    assert list(made.inputs) == ["x", "mask"]
    assert made.inputs["mask"]["dtype"] == "int64"
    got = session(made.file).run(None, {"x": x.numpy(), "mask": mask.numpy()})[0]
    with torch.no_grad():
        expected = net(x, mask)["logits"].numpy()
    assert np.abs(got - expected).max() < (0.1 * np.abs(expected).max() if quantized else 1e-4)
    if quantized:
        session(made.file, optimized=tmp_path / "optimized.onnx")
        found = operators(tmp_path / "optimized.onnx")
        assert found["MatMulIntegerToFloat"] == 2
        assert found["MatMul"] == 0


class Towers(nn.Module):
    """Two inputs through the same layers, in two dimensions and in three."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8, bias=False)
        self.point, self.table = nn.Conv1d(16, 16, 1), nn.Embedding(20, 16)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.table(x).transpose(1, 2)).relu().transpose(1, 2)
        return self.down(self.act(self.up(x))).mean(1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.embed(a), self.embed(b)], 1)


@pytest.mark.parametrize("method", ["int8", "weight_only"])
def test_layers_that_run_twice_share_their_weights_in_the_file(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = (torch.randint(0, 20, (64, 6)), torch.randint(0, 20, (64, 6)))
    data = from_arrays(calibration=(texts, None), task="embedding")
    light = quantize(Towers().eval(), data, method=method)
    made = export(light, data, path=tmp_path)
    assert made.meta["parity"]["max_abs_error"] < 0.05
    weights = {t.name: len(t.raw_data) for t in onnx.load(made.file).graph.initializer}
    assert 16 * 32 // 2 < sum(weights.values()) < 2 * (16 * 32 + 32 * 8 + 16 * 16 + 20 * 16)


class Outspoken(nn.Module):
    """Asks its layers for their geometry, says ``len(x)``, has an input called like an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.mix, self.head = nn.Conv1d(2, 16, 3, dilation=2), nn.Linear(19, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, cat: torch.Tensor) -> torch.Tensor:
        length = self.past.dilation[0] * (self.past.kernel_size[0] - 1)
        y = self.past(nn.functional.pad(x, (length, 0))).relu().mean(2)
        return self.head(self.mix(torch.cat([y, cat], 1)).relu().view(len(x), 4, 4).flatten(1))


def test_layers_are_asked_for_their_geometry_and_the_batch_for_its_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(64, 2, 16), "cat": torch.randn(64, 3)}
    data = from_arrays(calibration=inputs, task="embedding")
    made = export(quantize(Outspoken().eval(), data), data, path=tmp_path)
    assert list(made.inputs) == ["x", "cat"]
    assert isinstance(session(made.file).get_inputs()[0].shape[0], str)
    assert made.meta["parity"]["sqnr_db"] > 20


class Rectified(nn.Module):
    """Activations of integer layers that nothing in integers reads, and some that are added to what was before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Bilinear(8, 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (x + self.conv(x).relu()).mean((2, 3))
        return self.head(self.a(x).relu(), self.b(x).relu())


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_activation_goes_only_where_a_grid_clips_in_its_place(form: str, tmp_path: Path) -> None:
    pytest.importorskip(form)
    torch.manual_seed(0)
    data = from_arrays(calibration=torch.randn(64, 1, 8, 8), task="embedding")
    made = export(quantize(Rectified().eval(), data), data, format=form, path=tmp_path)
    assert made.meta["parity"]["sqnr_db"] > 30


class Bags(nn.Module):
    """Means of embeddings, which ONNX computes in a loop with a branch in it, and an integer layer that reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.bag(ids))


def test_what_a_loop_reads_from_outside_stays_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = from_arrays(calibration=torch.randint(0, 20, (64, 6)), task="embedding")
    made = export(quantize(Bags().eval(), data), data, path=tmp_path)
    assert made.meta["parity"]["sqnr_db"] > 30


class Causal(nn.Module):
    """Torch's own transformer with a mask over what is to come."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.net = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.net(self.embed(source), self.embed(target), tgt_mask=mask)[:, -1]


def test_a_causal_mask_is_taken_as_it_is_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    texts = (torch.randint(0, 20, (32, 6)), torch.randint(0, 20, (32, 4)))
    data = from_arrays(calibration=(texts, None), task="embedding")
    assert export(Causal().eval(), data, path=tmp_path).meta["parity"]["max_abs_error"] < 1e-4


class Branches(nn.Module):
    """Concatenation, max pooling, flatten into a linear layer, Conv1d and a two-tensor input."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(2, 8, 3, padding=1), nn.Conv1d(2, 8, 5, padding=2)
        self.join, self.head = nn.Conv1d(16, 8, 1), nn.Linear(8 * 8, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.cat((self.left(a).relu(), self.right(b).relu()), 1)
        y = nn.functional.max_pool1d(self.join(y).relu(), 2)
        return self.head(y.flatten(1)), y


def test_concatenation_pooling_and_flatten(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(64, 2, 16), torch.randn(64, 2, 16))
    data = from_arrays(calibration=(inputs, torch.zeros(64, dtype=torch.long)))
    net = Branches().eval()
    made = export(quantize(net, data), data, path=tmp_path)
    assert list(made.inputs) == ["input_0", "input_1"]
    assert made.meta["parity"]["sqnr_db"] > 20


def test_a_model_torch_refuses_gets_the_reason_and_a_way_out(digits_data: Data, tmp_path: Path) -> None:
    class Depends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.head(x.flatten(1))
            return y * 2 if float(y.sum()) > 0 else y

    with pytest.raises(ExportError, match="data-dependent"):
        export(Depends().eval(), digits_data, path=tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_an_answer_that_differs_is_an_error(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lwplugin.export.onnx as module

    original = module.normalise

    def break_weights(proto: onnx.ModelProto, facts: dict[str, str]) -> None:
        original(proto, facts)
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("head.bias"):
                values = onnx.numpy_helper.to_array(tensor) + 1
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    monkeypatch.setattr(module, "normalise", break_weights)
    with pytest.raises(ExportError, match="does not answer as the model does"):
        export(trained_net, digits_data, path=tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_unknown_formats_and_options_name_the_nearest(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="did you mean 'onnx'"):
        export(trained_net, digits_data, format="onx", path=tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'opset'"):
        export(trained_net, digits_data, path=tmp_path, opsets=18)


def test_importing_export_needs_neither_torch_nor_onnx() -> None:
    code = "import lwplugin.export, sys; assert not {'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
