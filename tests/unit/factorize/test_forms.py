"""Every form computes what its joined kernel says, and full rank gives the layer back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lwplugin.data.batch import Inputs
from lwplugin.factorize.forms import Form, built, joined, kernel_of
from lwplugin.factorize.svd import SvdConfig, split
from lwplugin.factorize.tucker import TuckerConfig
from lwplugin.factorize.tucker import split as tucker_split

CASES = {
    "linear": (lambda: nn.Linear(7, 5), lambda: torch.randn(3, 2, 7), Form("channel", (5,))),
    "embedding": (lambda: nn.Embedding(9, 4), lambda: torch.arange(9)[None], Form("channel", (4,))),
    "conv": (
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
        lambda: torch.randn(2, 3, 9, 8),
        Form("channel", (4,)),
    ),
    "conv1d": (
        lambda: nn.Conv1d(3, 4, 5, stride=2, dilation=2),
        lambda: torch.randn(2, 3, 21),
        Form("channel", (4,)),
    ),
    "spatial": (
        lambda: nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        lambda: torch.randn(2, 3, 9, 12),
        Form("spatial", (9,)),
    ),
    "tucker": (
        lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
        lambda: torch.randn(2, 3, 9, 8),
        Form("tucker", (3, 4)),
    ),
}


def factors(kernel: Tensor, form: Form) -> tuple[Tensor, ...]:
    if form.name == "tucker":
        return tucker_split(kernel, form, None, TuckerConfig(params=0.5))
    return split(kernel, form, None, SvdConfig(params=0.5))


@pytest.mark.parametrize("name", CASES)
def test_at_full_rank_the_product_is_the_layer(name: str) -> None:
    torch.manual_seed(0)
    make, inputs, form = CASES[name]
    layer: nn.Module = make()
    x: Inputs = inputs()
    parts = factors(kernel_of(layer), form)
    assert torch.allclose(joined(form, parts), kernel_of(layer), atol=1e-10)
    bias = getattr(layer, "bias", None)
    product = built(layer, form, parts, None if bias is None else bias.detach())
    assert torch.allclose(product(x), layer(x), atol=1e-5)
    shapes = form.shapes(tuple(kernel_of(layer).shape))
    assert [tuple(part.shape) for part in parts] == shapes


def test_a_randomized_sketch_comes_near_the_exact_factors() -> None:
    torch.manual_seed(0)
    kernel = (torch.randn(80, 6) @ torch.randn(6, 90) + 0.01 * torch.randn(80, 90)).double()[:, :, None, None]
    form = Form("channel", (6,))
    exact = joined(form, split(kernel, form, None, SvdConfig(params=0.5)))
    sketch = joined(form, split(kernel, form, None, SvdConfig(params=0.5, solver="randomized")))
    assert (kernel - sketch).norm() <= 1.01 * (kernel - exact).norm()
    again = joined(form, split(kernel, form, None, SvdConfig(params=0.5, solver="randomized")))
    assert torch.equal(sketch, again)
