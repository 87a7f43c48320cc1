"""An LSTM in few bits beside onnxruntime's quantize_dynamic, which is the only other tool here that takes its weights.

    pip install --no-deps aeon
    python benchmarks/recurrent.py --weights vowels.pt          # trained and kept where the file is missing
    python benchmarks/recurrent.py --width 512 --only-latency   # not trained: how fast a wide one is

The net of examples/speech-vowels tells nine speakers (two bidirectional layers of 128 units, 547 thousand parameters),
370 recordings judge. Answers are those of ONNX Runtime's own kernels; latency is batch 1 on one thread, sessions
interleaved call by call in random order. SQNR is of the logits against the float file's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_onnx import sessions
from torch import nn

from lwplugin.data import Data, from_arrays
from lwplugin.export import export
from lwplugin.export.parity import output_sqnr_db
from lwplugin.quantize import quantize
from lwplugin.training import TrainConfig, train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "speech-vowels"))

from vowels import SpeakerNet, speakers

OURS: dict[str, tuple[dict[str, Any], str]] = {
    "`int8`": ({"method": "int8"}, "unpacked"),
    '`int8`, `weights="packed"`': ({"method": "int8"}, "packed"),
    "`weight_only`, 8 bits": ({"method": "weight_only", "bits": 8}, "unpacked"),
    "plain rounding, 4 bits": ({"method": "weight_only", "bits": 4, "rounding": "nearest"}, "unpacked"),
    "`weight_only`, 4 bits": ({"method": "weight_only", "bits": 4}, "unpacked"),
    "plain rounding, 3 bits": ({"method": "weight_only", "bits": 3, "rounding": "nearest"}, "unpacked"),
    "`weight_only`, 3 bits": ({"method": "weight_only", "bits": 3}, "unpacked"),
    "`codebook`, 4 bits": ({"method": "codebook", "bits": 4}, "unpacked"),
}


def net_of(options: argparse.Namespace, data: Data) -> nn.Module:
    """The net, trained unless only its latency is asked for."""
    torch.manual_seed(0)
    net = SpeakerNet(options.width)
    if options.weights.exists():
        net.load_state_dict(torch.load(options.weights, weights_only=True))
    elif not options.only_latency:
        train(
            net, data, config=TrainConfig(epochs=options.epochs, lr=3e-3, schedule="onecycle", batch_size=16)
        )
        torch.save(net.state_dict(), options.weights)
    return net.eval()


def made(net: nn.Module, data: Data, directory: Path) -> dict[str, Path]:
    """All files by the name of their row."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    files = {"float": export(net, data, path=directory / "float").file}
    # It takes an LSTM's weights only where they are constants: torch's exporter leaves their gates to be put in order.
    folded = directory / "folded.onnx"
    quant_pre_process(str(files["float"]), str(folded), skip_symbolic_shape=True)
    for per_channel in (False, True):
        name = f"onnxruntime dynamic{', per channel' * per_channel}"
        files[name] = directory / f"dynamic{per_channel}.onnx"
        quantize_dynamic(str(folded), str(files[name]), per_channel=per_channel)
    for number, (name, (how, weights)) in enumerate(OURS.items()):
        start = time.process_time()
        light = quantize(net, data, **how)
        print(f"{name}: {time.process_time() - start:.0f} CPU s", flush=True)
        files[name] = export(light, data, path=directory / f"ours{number}", weights=weights).file
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=Path("vowels.pt"))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--only-latency", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = speakers()
    data = from_arrays(**parts, calibration_examples=128, duplicates="ignore")
    x, labels = parts["test"]
    with tempfile.TemporaryDirectory() as temporary:
        files = made(net_of(options, data), data, Path(temporary))
        running = sessions(files)
        times: dict[str, list[float]] = {name: [] for name in files}
        order = np.random.default_rng(0)
        for turn in range(options.rounds):
            for name in order.permutation(list(running)):
                start = time.perf_counter()
                running[name].run(None, {"input": x[turn % len(x)][None]})
                times[name].append((time.perf_counter() - start) * 1e3)
        print("\n| | right | same answer | SQNR | bytes | p50_ms | speed |\n|---|---|---|---|---|---|---|")
        base, wanted = np.array(times["float"]), np.empty(0)
        for name, session in running.items():
            out = np.concatenate([session.run(None, {"input": x[k : k + 1]})[0] for k in range(len(x))])
            wanted = out if name == "float" else wanted
            right, same = (out.argmax(1) == labels).mean(), (out.argmax(1) == wanted.argmax(1)).mean()
            now = np.array(times[name])
            print(
                f"| {name} | {right:.2%} | {same:.2%} | {output_sqnr_db(wanted, out):.1f} dB "
                f"| {files[name].stat().st_size:,} | {np.median(now):.3f} | {np.median(base / now):.2f}× |",
                flush=True,
            )


if __name__ == "__main__":
    main()
