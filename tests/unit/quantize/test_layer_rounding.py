from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lwplugin.data import Data, from_arrays
from lwplugin.moments.responses import Response
from lwplugin.moments.rows import Rows, inputs_of, responses_of, weight_rows
from lwplugin.quantize import quantize
from lwplugin.quantize.adaround import adaptive_codes
from lwplugin.quantize.compensation import compensated_codes
from lwplugin.quantize.group_grid import group_grid
from lwplugin.quantize.layer_rounding import Grid, input_blocks, keeping_scale, round_to_response
from lwplugin.quantize.refinement import refined
from lwplugin.quantize.ridge import solved


def correlated(rows: int, width: int) -> Tensor:
    torch.manual_seed(0)
    return torch.relu(
        torch.randn(rows, width // 4) @ torch.randn(width // 4, width) + torch.randn(rows, width)
    )


def grid_of(weight: Tensor, bits: int = 3) -> Grid:
    found = group_grid(weight.flatten(0, 1), bits, 32)
    scale, zero = (t.view(weight.shape) for t in found.spread(weight.shape[2]))
    return Grid(scale, zero, found.levels)


@pytest.mark.parametrize("bits", [3, 4])
def test_learned_rounding_keeps_the_outputs_better_than_nearest(bits: int) -> None:
    x, weight = correlated(500, 64), torch.randn(1, 32, 64)
    grid = grid_of(weight, bits=bits)
    nearest = ((weight / grid.scale).round() + grid.zero).clamp(0, grid.levels)

    def error(codes: Tensor) -> float:
        return float((x @ ((codes.float() - grid.zero) * grid.scale - weight)[0].T).square().sum())

    moment = (x.T @ x)[None] / 500
    learned = adaptive_codes(weight, moment, grid.scale, grid.zero, grid.levels)
    assert error(learned) < 0.6 * error(nearest)
    # Up or down, never further.
    assert float((learned - (weight / grid.scale + grid.zero).clamp(0, grid.levels)).abs().max()) < 1
    assert torch.equal(learned, adaptive_codes(weight, moment, grid.scale, grid.zero, grid.levels))


@pytest.mark.parametrize("method", ["int8", "weight_only"])
def test_learned_rounding_is_a_choice(method: str, trained_net: nn.Module, digits_data: Data) -> None:
    few = {"bits": 3, "group_size": 16} if method == "weight_only" else {}
    made = quantize(trained_net, digits_data, method=method, rounding="adaround", **few).history[-1]
    plain = quantize(trained_net, digits_data, method=method, rounding="nearest", **few).history[-1]
    margin = 3 if method == "weight_only" else 0.3
    assert made.metrics["calibration_sqnr_db"] > plain.metrics["calibration_sqnr_db"] + margin


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(96, 8), (400, 96)),
    "convolution": (lambda: nn.Conv2d(12, 8, 3, padding=1), (20, 12, 6, 6)),
    "groups": (lambda: nn.Conv1d(24, 8, 4, groups=2), (60, 24, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_of_a_wide_layer_mend_each_others_error(name: str) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build()
    # Correlated over channels, as blocks of channels part them.
    x = (
        correlated(torch.Size(shape).numel() // shape[1], shape[1])
        .view(shape[0], *shape[2:], shape[1])
        .movedim(-1, 1)
    )
    with torch.no_grad():
        wanted = layer(x)
    positions = wanted.numel() // 8 // len(x)
    rows = Rows(torch.arange(len(x) * positions), positions)
    response = Response(rows, responses_of(layer, wanted, rows))
    weight = weight_rows(layer)
    width = weight.shape[2]

    grid = grid_of(weight)

    def error(widest: int, ridge: float | None) -> float:
        made = round_to_response(
            layer, weight, x, response,
            grid_of=lambda *_: grid, rule=keeping_scale(compensated_codes), bias=True, ridge=ridge, widest=widest,
        )  # fmt: skip
        rounded = (made.codes.float() - grid.zero) * grid.scale
        assert made.bias is not None
        got = torch.einsum("rgk,gok->rgo", inputs_of(layer, x, rows), rounded).flatten(1) + made.bias
        return float((got - response.values).square().sum())

    whole, carried, apart = error(width, 1e-2), error(width // 4, 1e-2), error(width // 4, None)
    assert carried < 0.9 * apart
    assert carried < 1.5 * whole


def test_blocks_are_whole_channels_and_never_wider_than_told() -> None:
    blocks = input_blocks(nn.Conv2d(128, 1, (64, 1)), 8192, 2304)
    assert [block.stop - block.start for block in blocks] == [2048] * 4
    blocks = input_blocks(nn.Conv2d(10, 4, 3), 90, 40)
    assert [block.stop - block.start for block in blocks] == [27, 27, 36]
    assert input_blocks(nn.Conv1d(2, 4, 100), 200, 40) == [slice(0, 100), slice(100, 200)]
    assert input_blocks(nn.Linear(1536, 384), 1536, 2304) == [slice(0, 1536)]


def test_a_second_look_never_costs_and_keeps_the_grid() -> None:
    x, weight = correlated(500, 64), torch.randn(1, 32, 64)
    grid, moment = grid_of(weight), (x.T @ x)[None] / 500

    def error(codes: Tensor, scale: Tensor) -> float:
        return float((x @ ((codes.float() - grid.zero) * scale - weight)[0].T).square().sum())

    codes = compensated_codes(weight, moment, grid.scale, grid.zero, grid.levels)
    first = error(codes, grid.scale)
    same = refined(codes, weight, moment, grid.scale, grid.zero, grid.levels, group_size=None)
    fitted = refined(codes, weight, moment, grid.scale, grid.zero, grid.levels, group_size=32)
    assert torch.equal(same[1], grid.scale)
    assert error(*fitted) < error(*same) < first
    assert torch.equal(fitted[1], fitted[1].half().float())
    assert torch.equal(fitted[1].unflatten(2, (2, 32)).amax(-1), fitted[1].unflatten(2, (2, 32)).amin(-1))


def test_weights_move_only_as_far_as_other_examples_bear_out() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(80, 1, 60), torch.randn(1, 4, 60)
    true, test = weight + 0.3 * torch.randn(1, 4, 60), torch.randn(1000, 1, 60)
    wanted = torch.einsum("rgk,gok->rgo", x, true).flatten(1)
    even = torch.arange(80) % 2 == 0

    def error(noise: float, ridge: float | str) -> float:
        noisy = wanted + noise * torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
        found = solved(x, noisy, even, weight, offset=False, ridge=ridge)[1]  # type: ignore[arg-type]
        return float(torch.einsum("rgk,gok->rgo", test, found - true).square().mean())

    # What is right follows the noise: little of it and the weights may move, much and they stay.
    for noise in (0.1, 10.0):
        assert error(noise, "auto") < 1.1 * min(error(noise, each) for each in (0.01, 10.0))
    assert solved(x, wanted, even, weight, offset=False, ridge=None)[1] is weight


@pytest.mark.parametrize("method", ["int8", "weight_only"])
def test_a_wide_layer_is_rounded_in_blocks_through_the_public_call(method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2400, 6)).eval()
    x = correlated(256, 2400).view(256, 24, 100).numpy()
    data = from_arrays(calibration=(x, None), task="classification", duplicates="ignore")
    few = {"bits": 3} if method == "weight_only" else {"compensation_examples": 256}
    how = {
        rounding: quantize(net, data, method=method, rounding=rounding, **few).history[-1].metrics  # type: ignore[arg-type]
        for rounding in ("nearest", "compensated")
    }
    assert how["compensated"]["calibration_sqnr_db"] > how["nearest"]["calibration_sqnr_db"] + 2
