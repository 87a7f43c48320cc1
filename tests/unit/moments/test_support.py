"""Least squares within a support is what solving each output by itself gives."""

from __future__ import annotations

import torch

from lwplugin.moments.support import solve_on_support


def test_each_output_gets_its_own_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 12, generator=generator, dtype=torch.float64) * torch.logspace(-2, 1, 12)
    x = x + 0.3 * x.roll(1, 1)
    y = torch.randn(500, 5, generator=generator, dtype=torch.float64) + x[:, :5]
    support = torch.rand(12, 5, generator=generator) < 0.5
    support[0] = True
    xx, xy = (x.T @ x / 500)[None], (x.T @ y / 500)[None]
    found = solve_on_support(xx, xy, torch.zeros_like(xy), support[None])[0]
    assert (found[~support] == 0).all()
    for output in range(5):
        mine = support[:, output]
        wanted = torch.linalg.lstsq(x[:, mine], y[:, output : output + 1]).solution[:, 0]
        assert torch.allclose(found[mine, output], wanted, rtol=1e-4, atol=1e-5)
