from __future__ import annotations

import pytest
import torch
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.errors import MethodError
from lwplugin.quantize import quantize
from lwplugin.quantize.compensation import compensated_codes
from lwplugin.quantize.encodings import Groups
from lwplugin.quantize.group_grid import group_grid
from lwplugin.quantize.packed import PackedEmbedding, PackedLayer


def correlated(rows: int, width: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, width) @ torch.randn(width, width) * torch.logspace(-1, 1, width)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_compensation_keeps_the_outputs_better_than_nearest_rounding(bits: int) -> None:
    x, weight = correlated(500, 64), torch.randn(1, 32, 64)
    grid = group_grid(weight[0], bits, 32)
    scale, zero = grid.spread(64)
    codes = compensated_codes(weight, (x.T @ x)[None] / 500, scale[None], zero[None], grid.levels)

    def error(made: torch.Tensor) -> float:
        return float((x @ (((made.float() - zero) * scale) - weight[0]).T).square().sum())

    assert int(codes.max()) <= grid.levels
    assert error(codes[0]) < 0.5 * error(grid.nearest(weight[0]))


def test_uncorrelated_inputs_leave_nothing_to_compensate() -> None:
    torch.manual_seed(0)
    weight = torch.randn(2, 8, 16)
    grid = group_grid(weight.reshape(16, 16), 4, 8)
    scale, zero = (t.view(2, 8, 16) for t in grid.spread(16))
    codes = compensated_codes(weight, torch.eye(16).expand(2, 16, 16), scale, zero, grid.levels)
    assert torch.equal(codes.reshape(16, 16), grid.nearest(weight.reshape(16, 16)))


def test_a_searched_grid_is_never_worse_and_holds_zero_exactly() -> None:
    torch.manual_seed(0)
    rows = torch.distributions.StudentT(2.5).sample((20, 50)) + 3

    def error(search: bool) -> torch.Tensor:
        grid = group_grid(rows, 3, 16, search=search)
        scale, zero = grid.spread(50)
        assert int(grid.zero.max()) <= grid.levels
        return ((grid.nearest(rows).float() - zero) * scale - rows).square().sum()

    assert error(True) < error(False)
    zeros = group_grid(torch.zeros(2, 8), 4, 4)
    assert torch.equal((zeros.nearest(torch.zeros(2, 8)).float() - zeros.spread(8)[1]), torch.zeros(2, 8))


def test_four_bits_keep_the_answers_where_nearest_rounding_loses_more(
    trained_net: nn.Module, digits_data: Data
) -> None:
    options = {"method": "weight_only", "bits": 3, "group_size": 16}
    ours = quantize(trained_net, digits_data, **options)
    plain = quantize(trained_net, digits_data, rounding="nearest", **options)
    found, other = ours.history[-1].metrics, plain.history[-1].metrics
    assert found["calibration_agreement"] > 0.95
    assert found["calibration_sqnr_db"] > other["calibration_sqnr_db"] + 3
    assert {row["weight_bits"] for row in ours.history[-1].details["layers"]} == {3}


class Words(nn.Module):
    """Tokens [n, 6] → [n, 4]; one linear layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.twice, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens).mean(1)
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


@pytest.fixture
def words() -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    x = torch.randint(50, (64, 6))
    return Words().eval(), from_arrays(
        calibration=(x.numpy(), None), task="classification", duplicates="ignore"
    )


def test_embeddings_are_packed_too_at_their_own_width(words: tuple[nn.Module, Data]) -> None:
    made = quantize(*words, method="weight_only", bits=3, embedding_bits=8, group_size=16)
    assert isinstance(made.module.table, PackedEmbedding)
    assert made.module.table.encoding == Groups(8, 16)
    assert made.module.twice.encoding == Groups(3, 16)
    left = quantize(*words, method="weight_only", embeddings=False, group_size=16)
    assert type(left.module.table) is nn.Embedding
    assert made.history[-1].metrics["calibration_agreement"] > 0.8


def test_every_group_takes_its_true_width(words: tuple[nn.Module, Data]) -> None:
    made = quantize(*words, method="weight_only", bits=4, group_size=32)
    for layer in made.module.modules():
        if isinstance(layer, PackedLayer):
            assert layer.bits_per_weight == pytest.approx(4 + (16 + 4) / 32)


def test_nothing_to_pack_is_an_error(digits_data: Data) -> None:
    with pytest.raises(MethodError, match="No layer is left"):
        quantize(nn.Sequential(nn.Flatten(), nn.ReLU()), digits_data, method="weight_only")
