"""Heads of ``nn.MultiheadAttention``: a ViT of torch's own encoder layers on digits, pruned with and without them.

    python benchmarks/heads_digits.py [--seeds 3]

Nothing is trained after the cut and no label is used (``reconstruct`` with its repair).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import lwplugin
from lwplugin.data import Data, evaluate, load
from lwplugin.errors import MethodError
from lwplugin.measure import Comparison
from lwplugin.training import TrainConfig, train


class Vit(nn.Module):
    """Sixteen patches of 2 × 2 pixels, two encoder layers of eight heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 2, 2)
        self.place = nn.Parameter(torch.randn(1, 16, 64) * 0.1)
        layer = nn.TransformerEncoderLayer(64, 8, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.encoder(tokens).mean(1))


def accuracy(module: nn.Module, data: Data) -> float:
    return float(evaluate(module, data.need("test"), data.task).metrics["accuracy"])


def main() -> None:
    """Prints one row a seed and kind of cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load({"source": "digits", "test_fraction": 0.4, "calibration": 256}, "classification")
    print("seed  parent   kept  left whole  accuracy  heads      speed-up")
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        parent = Vit()
        train(
            parent, data, config=TrainConfig(epochs=options.epochs, lr=3e-3, schedule="onecycle", seed=seed)
        )
        parent.eval()
        whole = accuracy(parent, data)
        for kept, skip in ((0.45, ("*self_attn*",)), (0.45, ()), (0.3, ("*self_attn*",)), (0.3, ())):
            left = "heads" if skip else "nothing"
            try:
                light = lwplugin.prune(parent, data, params=kept, skip=skip, min_kept=0.1, collapse=0.0)
            except MethodError as error:
                print(f"{seed:4}  {whole:.4f}  {kept:5}  {left:10}  {error}", flush=True)
                continue
            heads = [layer.self_attn.num_heads for layer in light.module.encoder.layers]
            print(
                f"{seed:4}  {whole:.4f}  {kept:5}  {left:10}  {accuracy(light.module, data):.4f}    {heads!s:9}  "
                f"{speedup(parent, light, data)}",
                flush=True,
            )


def speedup(parent: nn.Module, light: lwplugin.LightModel, data: Data) -> str:
    """Of the exported files in ONNX Runtime, one thread, batch 1."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            lwplugin.export(model, data, format="onnx", path=Path(folder) / str(place))
            for place, model in enumerate((parent, light))
        ]
        found = lwplugin.measure(files[1], data, baseline=files[0], max_examples=64)
    assert isinstance(found, Comparison)
    return f"{found.speedup.estimate:.2f}x{' (noisy)' if found.noisy else ''}"


if __name__ == "__main__":
    main()
