"""A U-Net in few bits, which takes noise from pictures of clothes; how fast 3d convolutions are in integers.

    apt-get install dataset-fashion-mnist
    python benchmarks/upwards.py --weights denoiser.pt           # trained and kept where the file is missing

2,000 test pictures judge, by PSNR against the clean ones; SQNR is of the answers against the float file's. Files are
answered and timed in their runtime's own kernels, batch 1 on one thread (`interleaved.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion import pictures
from int8_onnx import onnxruntime_int8
from interleaved import answers, latencies, size, speed
from torch import Tensor, nn
from torch.nn import functional

from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.export.parity import output_sqnr_db
from lwplugin.quantize import quantize

OURS: dict[str, tuple[dict[str, Any], str]] = {
    "`int8`, onnx": ({"method": "int8"}, "onnx"),
    "`int8`, openvino": ({"method": "int8"}, "openvino"),
    "plain rounding, 4 bits, onnx": ({"method": "weight_only", "bits": 4, "rounding": "nearest"}, "onnx"),
    "`weight_only`, 4 bits, onnx": ({"method": "weight_only", "bits": 4}, "onnx"),
    "`weight_only`, 4 bits, openvino": ({"method": "weight_only", "bits": 4}, "openvino"),
}


class Denoiser(nn.Module):
    """Pictures [n, 1, 28, 28] → clean ones, flat: down twice, up twice, with a shortcut on each step."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.rise = nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4 * width, width, 4, stride=2, padding=1)
        self.out = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.relu(self.stem(x))
        b = functional.relu(self.down(a))
        y = functional.relu(self.rise(functional.relu(self.deep(b))))
        y = functional.relu(self.up(torch.cat([y, b], 1)))
        clean: Tensor = self.out(torch.cat([y, a], 1))
        return clean.flatten(1)


class Volume(nn.Module):
    """Volumes [n, 1, 16, 32, 32] → [n, 10]; not trained, for the time alone."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(2 * width, 4 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3, 4)))
        return logits


def noisy(data: Data, part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with noise of a third of their range, and without."""
    clean = next(data.need(part).head(count).batches(count)).inputs.float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(len(part)))
    return (clean + noise * 0.3 * clean.std()).numpy(), clean.numpy()


def denoiser(weights: Path, x: np.ndarray, clean: np.ndarray) -> nn.Module:
    """Trained for one pass unless the file is there."""
    torch.manual_seed(0)
    net = Denoiser()
    if weights.exists():
        net.load_state_dict(torch.load(weights, weights_only=True))
        return net.eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for part in torch.randperm(len(x)).split(32):
        loss = functional.mse_loss(net(torch.from_numpy(x[part])), torch.from_numpy(clean[part]).flatten(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), weights)
    return net.eval()


def made(net: nn.Module, data: Data, images: np.ndarray, directory: Path) -> dict[str, Path]:
    """All files by the name of their row."""
    directory.mkdir()
    files = {"float, onnx": export(net, data, path=directory / "float").file}
    files["float, openvino"] = export(net, data, format="openvino", path=directory / "float_ov").file
    static = onnxruntime_int8(files["float, onnx"], images, directory)
    files["onnxruntime static, minmax"] = static["onnxruntime u8s8"]
    for number, (name, (how, form)) in enumerate(OURS.items()):
        files[name] = export(
            quantize(net, data, **how), data, format=form, path=directory / f"ours{number}"
        ).file
    return files


def table(files: dict[str, Path], x: np.ndarray, clean: np.ndarray | None, seconds: float) -> None:
    """Prints a row a file."""
    feeds = [{"input": one[None]} for one in x[:16]]
    times = latencies(files, feeds, threads=1, seconds=seconds, starts=5)
    print("| | PSNR | SQNR | bytes | p50_ms | speed |\n|---|---|---|---|---|---|")
    wanted = answers(files["float, onnx"], {"input": x}, batch=50)
    for name, file in files.items():
        out = answers(file, {"input": x}, batch=50)
        error = np.nan if clean is None else float(np.square(out - clean.reshape(len(out), -1)).mean())
        peak = np.nan if clean is None else float(clean.max() - clean.min())
        print(
            f"| {name} | {20 * np.log10(peak / np.sqrt(error)):.2f} dB | {output_sqnr_db(wanted, out):.1f} dB "
            f"| {size(file):,} | {np.median(times[name]):.3f} "
            "| {:.2f}× ({:.2f} to {:.2f}) |".format(*speed(times["float, onnx"], times[name])),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("denoiser.pt"))
    parser.add_argument("--fashion", type=Path, help="directory of the four idx.gz files")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = pictures(options.fashion, None)
    net = denoiser(options.weights, *noisy(whole, "train", 10_000))
    x, clean = noisy(whole, "test", 2000)
    calibration, _ = noisy(whole, "calibration", 256)
    data = from_arrays(calibration=(calibration, None), test=(x, None), task="embedding", duplicates="ignore")
    with tempfile.TemporaryDirectory() as temporary:
        print("noise taken from pictures:")
        table(made(net, data, calibration, Path(temporary) / "pictures"), x, clean, options.seconds)
        volumes = np.random.default_rng(0).standard_normal((64, 1, 16, 32, 32), dtype=np.float32)
        data = from_arrays(
            calibration=(volumes, None), test=(volumes[:32], None), task="embedding", duplicates="ignore"
        )
        torch.manual_seed(0)
        print("volumes:")
        table(
            made(Volume().eval(), data, volumes, Path(temporary) / "volumes"),
            volumes[:32],
            None,
            options.seconds,
        )


if __name__ == "__main__":
    main()
