from __future__ import annotations

import torch
from torch import nn

from lwplugin.quantize.fold import fold_batchnorm


class SharedOutput(nn.Module):
    """The convolution's raw output is used beside the BatchNorm, where no hook sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1, bias=False)
        self.other_norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.conv(x)
        return self.other_norm(self.other(self.norm(raw))) + raw


def settled(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    module.train()
    for _ in range(5):
        module(torch.randn(shape) * 2 + 1)
    return module.eval()


def test_folded_net_answers_as_before(trained_net: nn.Module) -> None:
    import copy

    net = copy.deepcopy(trained_net)
    x = torch.rand(5, 1, 8, 8)
    before = net(x)
    folds = fold_batchnorm(net, x)
    assert [(f.layer, f.norm) for f in folds] == [
        ("stem", "stem_norm"),
        ("inner", "inner_norm"),
        ("depthwise.0", "depthwise.1"),
    ]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert torch.allclose(net(x), before, atol=1e-4)


def test_linear_and_conv1d_fold_too() -> None:
    net = nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5)
    )
    settled(net, (8, 3, 10))
    x = torch.randn(4, 3, 10)
    before = net(x)
    assert len(fold_batchnorm(net, x)) == 2
    assert torch.allclose(net(x), before, atol=1e-4)


def test_a_raw_output_used_elsewhere_is_not_folded_and_the_rest_is() -> None:
    net = settled(SharedOutput(), (8, 1, 6, 6))
    x = torch.randn(4, 1, 6, 6)
    before = net(x)
    folds = fold_batchnorm(net, x)
    assert [fold.layer for fold in folds] == ["other"]
    assert torch.allclose(net(x), before, atol=1e-4)


def test_a_layer_called_twice_is_not_folded() -> None:
    conv, norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
    net = settled(nn.Sequential(conv, norm, conv), (8, 2, 4, 4))
    assert fold_batchnorm(net, torch.randn(2, 2, 4, 4)) == []
