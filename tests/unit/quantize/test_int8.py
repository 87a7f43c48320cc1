from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from quantize_nets import ResidualNet, trained
from torch import nn

import lwplugin.quantize.scheme as scheme
from lwplugin.data import Data, from_arrays
from lwplugin.errors import DataError, MethodError, RecipeError
from lwplugin.model.bundle import light
from lwplugin.quantize import METHODS, QuantLayer, quantize


def accuracy(module: nn.Module, data: Data) -> float:
    with torch.no_grad():
        batch = next(data.need("test").batches(1000))
        return float((module(batch.inputs).argmax(1) == batch.targets).float().mean())


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "entropy", "mse"])
def test_int8_keeps_the_accuracy(calibrator: str, trained_net: nn.Module, digits_data: Data) -> None:
    made = quantize(trained_net, digits_data, method="int8", calibrator=calibrator)
    assert sum(isinstance(m, QuantLayer) for m in made.module.modules()) == 4
    assert accuracy(made.module, digits_data) >= accuracy(trained_net, digits_data) - 0.015
    entry = made.history[-1]
    assert (entry.step, entry.method) == ("quantize", "int8")
    assert entry.config["calibrator"] == calibrator
    assert entry.metrics["calibration_agreement"] > 0.97
    assert [row["name"] for row in entry.details["layers"]] == ["stem", "inner", "depthwise.0", "head"]
    assert all(row["weight_sqnr_db"] > 25 for row in entry.details["layers"])


def test_the_argument_is_untouched_and_the_result_repeats(trained_net: nn.Module, digits_data: Data) -> None:
    before = {name: value.clone() for name, value in trained_net.state_dict().items()}
    first, second = (quantize(trained_net, digits_data) for _ in range(2))
    assert type(trained_net.stem) is nn.Conv2d
    assert all(torch.equal(before[name], value) for name, value in trained_net.state_dict().items())
    states = first.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(("choice", "largest"), [(True, 64), (False, 127)])
def test_reduced_range_is_decided_in_the_stored_integers(
    choice: bool, largest: int, trained_net: nn.Module, digits_data: Data
) -> None:
    made = quantize(trained_net, digits_data, reduce_range=choice, weight_clip="max")
    found = max(int(m.integers().abs().max()) for m in made.module.modules() if isinstance(m, QuantLayer))
    assert found == largest
    assert made.history[-1].details["reduced_range"] is choice


@pytest.mark.parametrize(("flags", "reduced"), [({"avx2"}, True), ({"avx2", "avx512_vnni"}, False)])
def test_auto_reduces_the_range_where_the_cpu_needs_it(
    flags: set[str], reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheme, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(scheme.platform, "machine", lambda: "x86_64")
    scheme.has_dot_product_kernels.cache_clear()
    assert scheme.needs_reduced_range("auto") is reduced
    scheme.has_dot_product_kernels.cache_clear()


def test_layers_can_be_left_in_float_and_the_history_says_why(
    trained_net: nn.Module, digits_data: Data
) -> None:
    made = quantize(trained_net, digits_data, skip=("depth*",), first_layer=False, last_layer=False)
    assert [type(made.module.get_submodule(n)).__name__ for n in ("stem", "inner", "head")] == [
        "Conv2d",
        "QuantConv2d",
        "Linear",
    ]
    reasons = {row["name"]: row["reason"] for row in made.history[-1].details["skipped"]}
    assert "first_layer" in reasons["stem"]
    assert "last_layer" in reasons["head"]
    assert reasons["depthwise.0"] == "named in skip"


def test_tied_and_uncalled_layers_stay_in_float(digits_data: Data) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.b.weight = self.a.weight
            self.idle = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x.flatten(1)).relu()).relu())

    made = quantize(Tied().eval(), digits_data)
    reasons = {row["name"]: row["reason"] for row in made.history[-1].details["skipped"]}
    assert set(reasons) == {"a", "b", "idle"}
    assert "shared" in reasons["a"]
    assert "not called" in reasons["idle"]


def test_bias_correction_brings_channel_means_back(trained_net: nn.Module, digits_data: Data) -> None:
    def gap(choice: bool) -> float:
        made = quantize(
            trained_net, digits_data, bias_correction=choice, calibrator="percentile", percentile=95
        )
        batch = next(digits_data.need("calibration").batches(256))
        with torch.no_grad():
            return float((made.module(batch.inputs).mean(0) - trained_net(batch.inputs).mean(0)).abs().max())

    assert gap(True) < gap(False) / 5


def test_auto_picks_the_candidate_that_calibration_prefers(trained_net: nn.Module, digits_data: Data) -> None:
    details = quantize(trained_net, digits_data).history[-1].details
    rows = details["candidates"]
    other = next(name for name in rows if name != details["picked"])
    assert rows[details["picked"]]["agreement"] >= rows[other]["agreement"] - 0.005


def test_saved_bundle_answers_bit_identically_in_a_fresh_process(tmp_path: Path, digits_data: Data) -> None:
    from lwplugin.model.origin import FactoryOrigin

    net = trained(epochs=2)
    origin = FactoryOrigin(path="quantize_nets:untrained")
    made = quantize(light(net, origin), digits_data)
    made.save(tmp_path / "bundle")
    x = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        np.save(tmp_path / "expected.npy", made.module(x).numpy())
    np.save(tmp_path / "x.npy", x.numpy())
    script = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np, torch
        from lwplugin.model.bundle import load
        module = load({str(tmp_path / "bundle")!r}).module
        with torch.no_grad():
            got = module(torch.from_numpy(np.load({str(tmp_path / "x.npy")!r}))).numpy()
        assert np.array_equal(got, np.load({str(tmp_path / "expected.npy")!r}))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    stored = (tmp_path / "bundle" / "weights.safetensors").stat().st_size
    assert stored < 4 * sum(p.numel() for p in ResidualNet().parameters())


def test_wrong_options_name_the_way_out(trained_net: nn.Module, digits_data: Data) -> None:
    with pytest.raises(RecipeError, match="did you mean 'calibrator'"):
        quantize(trained_net, digits_data, calibrater="mse")
    with pytest.raises(RecipeError, match="did you mean 'int8'"):
        quantize(trained_net, digits_data, method="int9")
    with pytest.raises(RecipeError, match="calibrator"):
        quantize(trained_net, digits_data, calibrator="median")
    with pytest.raises(RecipeError, match="not symmetric"):
        quantize(trained_net, digits_data, symmetric=True, activations="dynamic")
    with pytest.raises(MethodError, match="matches no"):
        quantize(trained_net, digits_data, skip=("nothing.*",))


def test_nothing_to_quantize_is_an_error(digits_data: Data) -> None:
    with pytest.raises(MethodError, match="No layer is left"):
        quantize(nn.Sequential(nn.Flatten(), nn.ReLU()), digits_data)


def test_calibration_examples_that_are_not_finite_are_refused(trained_net: nn.Module) -> None:
    x = np.full((20, 1, 8, 8), np.nan, dtype=np.float32)
    data = from_arrays(calibration=(x, np.zeros(20, dtype=np.int64)))
    with pytest.raises(DataError, match="not finite"):
        quantize(trained_net, data)


def test_every_method_has_documented_options() -> None:
    for method in METHODS.values():
        for name, field in method.config.model_fields.items():
            assert field.description, f"{method.name}.{name}"


def test_a_quantized_layer_costs_the_parameters_it_holds() -> None:
    from torch import nn

    from lwplugin.model.cost import cost
    from lwplugin.quantize.layers import QuantConv2d

    float_layer, quantized = nn.Conv2d(3, 8, 3), QuantConv2d(3, 8, 3)
    example = torch.zeros(1, 3, 6, 6)
    assert cost(quantized, example).params == cost(float_layer, example).params
    assert cost(quantized, example).macs == cost(float_layer, example).macs
    assert cost(quantized, example).size_bytes < cost(float_layer, example).size_bytes / 2


@pytest.mark.parametrize("rounding", ["nearest", "compensated", "auto"])
def test_rounding_can_be_told_exactly(rounding: str, trained_net: nn.Module, digits_data: Data) -> None:
    details = quantize(trained_net, digits_data, rounding=rounding).history[-1].details
    names = {
        "nearest": {"plain", "bias corrected"},
        "compensated": {"compensated"},
        "auto": {"plain", "bias corrected", "compensated"},
    }
    assert set(details["candidates"]) == names[rounding]
    assert details["picked"] in details["candidates"]


def test_compensated_rounding_comes_closer_to_the_float_outputs(
    trained_net: nn.Module, digits_data: Data
) -> None:
    rows = quantize(trained_net, digits_data, reduce_range=True).history[-1].details["candidates"]
    assert rows["compensated"]["output_sqnr_db"] > rows["bias corrected"]["output_sqnr_db"]


def test_embeddings_are_stored_in_eight_bits_unless_told_not_to() -> None:
    from lwplugin.quantize.packed import PackedEmbedding

    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(40, 16), nn.Flatten(), nn.Linear(80, 4)).eval()
    x = torch.randint(40, (64, 5)).numpy()
    data = from_arrays(calibration=(x, None), duplicates="ignore")
    made = quantize(net, data)
    assert isinstance(made.module[0], PackedEmbedding)
    assert [row["weight_bits"] for row in made.history[-1].details["layers"]] == [8, 8]
    assert type(quantize(net, data, embeddings=False).module[0]) is nn.Embedding
    assert type(quantize(net, data, skip=("0",)).module[0]) is nn.Embedding
