from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.data.batch import call
from lwplugin.errors import ExportError, ToolchainError
from lwplugin.export import export
from lwplugin.export.handover import Handover, hand_over
from lwplugin.export.parity import output_sqnr_db
from lwplugin.quantize import quantize


def handed(
    model: object, data: Data, tmp_path: Path, *, batch: int | None = None, weights_as_integers: bool = True
) -> tuple[Handover, torch.fx.GraphModule]:
    file = tmp_path / "model.pt2"
    made = hand_over(
        _light(model), data, file, examples=16, batch=batch, weights_as_integers=weights_as_integers
    )
    return made, torch.export.load(file).module(check_guards=False)


def _light(model: object) -> object:
    from lwplugin.model.bundle import light

    return light(model)


def targets(program: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.fixture(scope="module")
def integer(trained_net: nn.Module, digits_data: Data) -> object:
    return quantize(trained_net, digits_data)


@pytest.mark.parametrize("as_integers", [False, True])
def test_the_program_computes_the_bundle_s_integers(
    as_integers: bool, integer: object, digits_data: Data, tmp_path: Path
) -> None:
    made, program = handed(integer, digits_data, tmp_path, weights_as_integers=as_integers)
    with torch.no_grad():
        wanted = call(made.module, made.example).numpy()
        got = call(program, made.example).numpy()
    # The bundle leaves additions, means and the last output in float; here they are rounded too.
    assert output_sqnr_db(wanted, got) > 30
    assert (wanted.argmax(1) == got.argmax(1)).all()
    assert made.rounds
    assert made.scheme["layers"] == 4
    weights = dict(program.named_buffers())
    layer = made.module.get_submodule("inner")
    held = [buffer for name, buffer in weights.items() if name.endswith("integers")]
    assert any(torch.equal(tensor, layer.integers()) for tensor in held) is as_integers


def test_every_tensor_between_layers_has_one_pair_and_clips_are_rounded_once(
    integer: object, digits_data: Data, tmp_path: Path
) -> None:
    _, program = handed(integer, digits_data, tmp_path)
    names = targets(program)
    # input, stem, inner, sum, depthwise, mean, squeezed mean, logits
    assert sum("quantize_per_tensor" in name and "dequantize" not in name for name in names) == 8
    for node in program.graph.nodes:
        if "conv2d" in str(node.target):
            assert "dequantize_per_tensor" in str(node.args[0].target)
        if "relu" in str(node.target) or "hardtanh" in str(node.target):
            assert "quantize" not in str(node.args[0].target)
            assert ["quantize_per_tensor" in str(reader.target) for reader in node.users] == [True]


def test_a_free_batch_stays_free(integer: object, digits_data: Data, tmp_path: Path) -> None:
    _, program = handed(integer, digits_data, tmp_path)
    for count in (1, 5):
        assert program(torch.zeros(count, 1, 8, 8)).shape == (count, 10)


def test_a_spatial_mean_keeps_its_dimensions(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    made, program = handed(trained_net, digits_data, tmp_path, batch=1)
    (mean,) = [node for node in program.graph.nodes if "mean.dim" in str(node.target)]
    assert mean.args[2] is True
    x = made.example[:1]
    with torch.no_grad():
        assert torch.allclose(program(x), trained_net(x), atol=1e-5)
    assert not made.rounds


def test_a_convolution_over_time_is_lowered_as_one_over_space(tmp_path: Path) -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 8, 5, stride=2, padding=2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.conv(x)).mean(2))

    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((60, 2, 32)).astype(np.float32)
    data = from_arrays(calibration=(x[:40], None), test=(x[40:], None), task="embedding", duplicates="ignore")
    made, program = handed(quantize(Wave().eval(), data), data, tmp_path)
    assert any("conv2d" in name for name in targets(program))
    with torch.no_grad():
        wanted, got = call(made.module, made.example), call(program, made.example)
    assert output_sqnr_db(wanted.numpy(), got.numpy()) > 25


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.table(ids)).mean(1))


def test_tables_stay_codes_and_give_the_same_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = np.random.default_rng(0).integers(0, 50, (60, 6))
    data = from_arrays(
        calibration=(ids[:40], None), test=(ids[40:], None), task="embedding", duplicates="ignore"
    )
    light = quantize(Words().eval(), data)
    made, program = handed(light, data, tmp_path)
    assert made.scheme["coded_tables"] == 1
    assert {buffer.dtype for name, buffer in program.named_buffers() if "codes" in name} == {torch.int8}
    with torch.no_grad():
        assert (
            output_sqnr_db(call(made.module, made.example).numpy(), call(program, made.example).numpy()) > 30
        )


def test_smoothed_inputs_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outer(nn.functional.gelu(self.inner(x))).mean(1)

    x = np.random.default_rng(0).standard_normal((60, 5, 8)).astype(np.float32) * np.logspace(
        -1, 1, 8, dtype=np.float32
    )
    data = from_arrays(calibration=(x[:40], None), test=(x[40:], None), task="embedding", duplicates="ignore")
    light = quantize(Tokens().eval(), data, smoothing=True, activations="static")
    assert light.module.inner.input_gain is not None
    for as_integers in (False, True):
        made, program = handed(light, data, tmp_path, weights_as_integers=as_integers)
        with torch.no_grad():
            wanted, got = call(made.module, made.example), call(program, made.example)
        assert output_sqnr_db(wanted.numpy(), got.numpy()) > 30


def test_inputs_are_rounded_to_the_range_they_turn_out_to_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).eval()
    x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    x[50:] *= 30  # far outside what calibration saw
    data = from_arrays(calibration=(x[:40], None), test=(x[50:], None), task="embedding")
    light = quantize(net, data, activations="dynamic")
    made, program = handed(light, data, tmp_path)
    with torch.no_grad():
        wanted, got = call(made.module, made.example), call(program, made.example)
    assert output_sqnr_db(wanted.numpy(), got.numpy()) > 40
    assert made.scheme["dynamic_layers"] == 2
    made, program = handed(light, data, tmp_path, weights_as_integers=False)
    integers, scale = made.dynamic[0]
    assert torch.equal(integers * scale[:, None], dict(program.named_parameters())["module.0.weight"])


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_half_layers_hold_16_bits_where_the_runtime_stores_what_it_computes_with(
    kind: str, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    net, data = trained_net, digits_data
    if kind == "linear":
        torch.manual_seed(0)
        net = Words().eval()
        ids = np.random.default_rng(0).integers(0, 50, (60, 6))
        data = from_arrays(
            calibration=(ids[:40], None), test=(ids[40:], None), task="embedding", duplicates="ignore"
        )
    light = _light(quantize(net, data, method="half"))
    file = tmp_path / "model.pt2"
    made = hand_over(light, data, file, examples=16, batch=1, weights_as_integers=True, half_inside=True)
    program = torch.export.load(file)
    held = [tensor.dtype for tensor in program.state_dict.values() if tensor.ndim > 1]
    assert held
    assert set(held) == {torch.float16}
    normed = {tensor.dtype for name, tensor in program.state_dict.items() if ".norm." in name}
    assert normed == ({torch.float32} if kind == "linear" else set())
    x = made.example[:1]
    with torch.no_grad():
        got = program.module(check_guards=False)(x)
        assert output_sqnr_db(made.module(x).numpy(), got.numpy()) > 45


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "weight_only", "bits": 4}, "No kernel here reads this packing"),
        ({"method": "half", "dtype": "bfloat16"}, "No kernel here reads this packing"),
    ],
)
def test_what_no_kernel_reads_is_refused_with_the_layer(
    options: dict[str, object], reason: str, trained_net: nn.Module, digits_data: Data, tmp_path: Path
) -> None:
    light = quantize(trained_net, digits_data, **options)
    with pytest.raises(ExportError, match=reason) as caught:
        handed(light, digits_data, tmp_path)
    assert "layer '" in str(caught.value)
    assert not (tmp_path / "model.pt2").exists()


def test_without_its_toolchain_the_way_to_it_is_named(
    trained_net: nn.Module, digits_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LWPLUGIN_TOOLCHAINS", str(tmp_path / "none"))
    with pytest.raises(ToolchainError, match="lwplugin toolchain install litert"):
        export(trained_net, digits_data, format="tflite", path=tmp_path)
    assert not (tmp_path / "export.json").exists()
