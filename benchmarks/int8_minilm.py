"""MiniLM in 8-bit integers: lwplugin's `int8` beside onnxruntime's quantize_dynamic, in one run.

    python benchmarks/int8_minilm.py --rounds 100

All files come from the same float model; BBC News articles of 128 tokens judge them in ONNX Runtime's own kernels, by a
logistic head and zero-shot. Latency is batch 1 on one thread, sessions interleaved call by call. `real_models.py` says
what to install.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_onnx import sessions
from real_models import CLASSES, Sentences, bbc, judged, tokenized

from lwplugin.data import Data
from lwplugin.export import export
from lwplugin.quantize import quantize
from lwplugin.quantize.scheme import cpu_flags

TEMPLATES = ("This is news about {}.", "An article about {}.", "{}", "The latest {} news.")
"""Zero-shot accuracy hangs on the words of five prompts, so it is the mean over these."""
OURS: dict[str, dict[str, Any]] = {
    "lwplugin int8": {},
    "lwplugin int8, embeddings in 6 bits": {"embedding_bits": 6},
}


def onnxruntime_dynamic(floating: Path, directory: Path) -> dict[str, Path]:
    """quantize_dynamic per channel, with full and with reduced weight range."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = directory / "prepared.onnx"
    quant_pre_process(str(floating), str(prepared), skip_symbolic_shape=True)
    files = {}
    for name, reduced in {"onnxruntime dynamic": False, "onnxruntime dynamic, reduced range": True}.items():
        files[name] = directory / f"dynamic_{int(reduced)}.onnx"
        quantize_dynamic(
            str(prepared),
            str(files[name]),
            per_channel=True,
            reduce_range=reduced,
            weight_type=QuantType.QInt8,
        )
    return files


def ours(net: torch.nn.Module, data: Data, directory: Path, **shared: Any) -> dict[str, Path]:
    """The variants of `OURS`, with what each picked printed."""
    files = {}
    for name, options in OURS.items():
        start = time.perf_counter()
        light = quantize(net, data, method="int8", examples=128, batch_size=32, **shared, **options)
        files[name] = export(light, data, path=directory / name.replace(" ", "_")).file
        details = light.history[-1].details
        print(f"{name}: {time.perf_counter() - start:.0f} s, picked {details['picked']}", flush=True)
        for candidate, found in details["candidates"].items():
            print(f"  {candidate}: {found['output_sqnr_db']:.1f} dB, {found['agreement']:.4f}")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--full-range", action="store_true", help="8-bit weights, for CPUs with VNNI")
    parser.add_argument("--rounding", default="auto", help="nearest takes a third of the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, arrays, labels = bbc()
    net = Sentences().eval()
    questions = tokenized([template.format(name) for template in TEMPLATES for name in CLASSES])
    print(
        "CPU:",
        ", ".join(sorted(flag for flag in cpu_flags() if "vnni" in flag or "amx" in flag)) or "no VNNI",
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        files = {"float": export(net, data, path=directory / "float").file}
        files |= onnxruntime_dynamic(files["float"], directory)
        chosen = {"reduce_range": not options.full_range, "rounding": options.rounding}
        files |= ours(net, data, directory, **chosen)
        running = sessions(files)
        times: dict[str, list[float]] = {name: [] for name in files}
        for turn in range(options.rounds):
            feed = {key: value[turn % len(labels)][None] for key, value in arrays.items()}
            for name, session in running.items():
                start = time.perf_counter()
                session.run(None, feed)
                times[name].append((time.perf_counter() - start) * 1e3)
        print("| file | logistic head | zero-shot | cosine | p50_ms | against float | MB |")
        print("|---|---|---|---|---|---|---|")
        base, wanted = np.array(times["float"]), np.empty(0)
        for name, session in running.items():
            parts = [
                session.run(None, {key: value[k : k + 25] for key, value in arrays.items()})[0]
                for k in range(0, len(labels), 25)
            ]
            vectors = np.concatenate(parts)
            wanted = vectors if name == "float" else wanted
            anchors = session.run(None, questions)[0].reshape(len(TEMPLATES), len(CLASSES), -1)
            found = [judged(vectors, labels, each) for each in anchors]
            head, zero_shot = found[0][0], float(np.mean([each for _, each in found]))
            now = np.array(times[name])
            print(
                f"| {name} | {head:.2%} | {zero_shot:.2%} | {(vectors * wanted).sum(1).mean():.4f} "
                f"| {np.median(now):.1f} | {np.median(base / now):.2f}× | {files[name].stat().st_size / 1e6:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
