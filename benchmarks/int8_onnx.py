"""Int8 in ONNX Runtime: lwplugin's `int8` beside onnxruntime's quantize_static, on one Fashion-MNIST ResNet-20.

    python benchmarks/int8_onnx.py --weights resnet20.pt

Trains the net for two short epochs where the weights file is missing. All files come from the same float model and
the same 512 calibration images; accuracy is that of the real kernels on 10,000 test images; latency is batch 1, one
thread, sessions interleaved call by call in one process, each session with one thread.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from quantizers import onnxruntime_static
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.quantize import quantize

FASHION = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION = slice(30_000, 30_512)


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Sequential()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """He 2015, 1512.03385, for 28×28 grey images."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks, inner = [], width
        for stage in range(3):
            for index in range(3):
                outer = width * 2**stage
                blocks.append(Block(inner, outer, 2 if stage and not index else 1))
                inner = outer
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inner, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def read(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 1, 28, 28] normalised, labels int64 [n]."""
    images = gzip.decompress((FASHION / f"{kind}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION / f"{kind}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32)
    return (x / 255 - 0.286) / 0.353, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def train(net: nn.Module, x: np.ndarray, y: np.ndarray, *, examples: int = 20_000, epochs: int = 2) -> None:
    """SGD with a one-cycle schedule; about four minutes on one thread."""
    torch.manual_seed(0)
    steps = examples // 128
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(examples)[: steps * 128].view(steps, 128).numpy():
            loss = F.cross_entropy(net(torch.from_numpy(x[chosen])), torch.from_numpy(y[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def onnxruntime_int8(floating: Path, images: np.ndarray, directory: Path) -> dict[str, Path]:
    """quantize_static per channel, u8s8, with full and with reduced weight range."""
    batches = [{"input": images[k : k + 64]} for k in range(0, len(images), 64)]
    files = {}
    for name, reduced in {"onnxruntime u8s8": False, "onnxruntime u8s8 reduced": True}.items():
        folder = directory / f"ort_{int(reduced)}"
        folder.mkdir()
        files[name] = onnxruntime_static(reduced=reduced)(floating, batches, folder)
    return files


def sessions(files: dict[str, Path]) -> dict[str, Any]:
    """One single-threaded session a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return {
        name: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }


def kernels(file: Path, directory: Path) -> Counter[str]:
    """Operators of the graph ONNX Runtime really runs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(directory / "optimized.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def prepare(weights: Path) -> tuple[nn.Module, Data, np.ndarray, np.ndarray, np.ndarray]:
    """The net, its data, the test set and the calibration images."""
    x, y = read("train")
    test_x, test_y = read("t10k")
    net = ResNet20()
    if weights.exists():
        net.load_state_dict(torch.load(weights, weights_only=True))
    else:
        train(net, x, y)
        torch.save(net.state_dict(), weights)
    data = from_arrays(calibration=(x[CALIBRATION], y[CALIBRATION]), test=(test_x, test_y))
    return net.eval(), data, test_x, test_y, x[CALIBRATION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("resnet20.pt"))
    parser.add_argument("--rounds", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net, data, test_x, test_y, images = prepare(options.weights)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        files = {"float": export(net, data, path=directory / "float").file}
        variants: dict[str, dict[str, Any]] = {
            **{
                f"lwplugin {name}": {"calibrator": name}
                for name in ("minmax", "percentile", "entropy", "mse")
            },
            "lwplugin mse, weights clipped": {"weight_clip": "mse"},
            "lwplugin mse, no bias correction": {"bias_correction": False},
            "lwplugin mse, full range": {"reduce_range": False},
            "lwplugin mse, first layer float": {"first_layer": False},
        }
        for name, chosen in variants.items():
            start = time.perf_counter()
            light = quantize(net, data, **chosen)
            middle = time.perf_counter()
            made = export(light, data, path=directory / name.replace(" ", "_"))
            files[name] = made.file
            parity = made.meta["parity"]
            print(
                f"{name}: quantize {middle - start:.1f} s, export {time.perf_counter() - middle:.1f} s, "
                f"{light.history[-1].details['picked']}, kernels against simulation "
                f"{parity['kernel_sqnr_db']:.1f} dB",
                flush=True,
            )
        files |= onnxruntime_int8(files["float"], images, directory)
        running = sessions(files)
        times: dict[str, list[float]] = {name: [] for name in files}
        for turn in range(options.rounds):
            x = test_x[turn % len(test_x)][None]
            for name, session in running.items():
                start = time.perf_counter()
                session.run(None, {"input": x})
                times[name].append((time.perf_counter() - start) * 1e3)
        print(
            "| file | accuracy | same answer | logits dB | p50_ms | against float | size_bytes | integer kernels |"
        )
        print("|---|---|---|---|---|---|---|---|")
        base, wanted = np.array(times["float"][100:]), np.empty(0)
        for name, session in running.items():
            answers = [
                session.run(None, {"input": test_x[k : k + 250]})[0] for k in range(0, len(test_x), 250)
            ]
            logits = np.concatenate(answers)
            accuracy = float((logits.argmax(1) == test_y).mean())
            wanted = logits if name == "float" else wanted
            agreement = float((logits.argmax(1) == wanted.argmax(1)).mean())
            noise = float(np.square(logits - wanted).sum())
            decibels = 10 * np.log10(np.square(wanted).sum() / noise) if noise else np.inf
            found = kernels(files[name], directory)
            integer = sum(
                count for kind, count in found.items() if kind.startswith("Q") and "ize" not in kind
            )
            now = np.array(times[name][100:])
            print(
                f"| {name} | {accuracy:.2%} | {agreement:.2%} | {decibels:.1f} "
                f"| {np.median(now):.3f} | {np.median(base / now):.2f}× "
                f"| {files[name].stat().st_size:,} | {integer} |"
            )


if __name__ == "__main__":
    main()
