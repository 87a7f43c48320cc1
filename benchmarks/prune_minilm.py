"""Heads and layers of MiniLM removed without labels: accuracy on BBC News, and latency in onnxruntime.

    python benchmarks/prune_minilm.py --articles 892

192 unlabelled articles calibrate. A logistic head on the vectors is trained on every second of the other articles and
scored on the rest; zero-shot compares with a sentence a class. Latency: one article of 128 tokens, one thread, the
models taking turns in one process, median of 30 rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_models import Sentences, bbc, judged, prompts
from torch import nn

import lwplugin
from lwplugin.model.cost import cost

ROWS: dict[str, dict[str, Any]] = {
    "attention": {"params": 0.85},
    "magnitude": {"params": 0.85},
    "reconstruct": {"params": 0.85},
    "layer": {"blocks": 2},
    "layer ": {"blocks": 2, "importance": "gradient"},
    "layer  ": {"blocks": 2, "repair": False},
}


@torch.no_grad()
def vectors(module: nn.Module, arrays: dict[str, np.ndarray], articles: int) -> np.ndarray:
    module.eval()
    ids, mask = (torch.from_numpy(arrays[key][:articles]) for key in ("input_ids", "attention_mask"))
    parts = [module(i, m) for i, m in zip(ids.split(64), mask.split(64), strict=True)]
    return torch.cat(parts).numpy()


def latency_ms(files: list[Path], arrays: dict[str, np.ndarray]) -> list[float]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]) for file in files
    ]
    feed = {key: value[:1] for key, value in arrays.items()}
    times: list[list[float]] = [[] for _ in sessions]
    for round_ in range(35):
        for session, seen in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            if round_ >= 5:
                seen.append(1000 * (time.perf_counter() - began))
    return [float(np.median(seen)) for seen in times]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--articles", type=int, default=892, help="first so many, 192 of them for calibration"
    )
    options = parser.parse_args()
    data, arrays, labels = bbc()
    labels = labels[: options.articles]
    parent = Sentences().eval()
    anchors = prompts(parent)
    directory = Path(tempfile.mkdtemp())
    print("| method | options | fewer parameters | fewer MACs | logistic head | zero-shot | s |")
    print("|---|---|---|---|---|---|---|")
    files = []
    for method, chosen in {"none": {}, **ROWS}.items():
        began = time.perf_counter()
        module = parent
        if method != "none":
            module = lwplugin.prune(parent, data, method=method.strip(), **chosen).module
        seconds = time.perf_counter() - began
        before, after = cost(parent, data.example(1)), cost(module, data.example(1))
        fewer = f"{1 - after.params / before.params:.0%} | {1 - after.macs / before.macs:.0%}"
        head, zero = judged(vectors(module, arrays, options.articles), labels, anchors)
        written = ", ".join(f"{key}: {value}" for key, value in chosen.items())
        print(
            f"| `{method.strip()}` | {written} | {fewer} | {head:.1%} | {zero:.1%} | {seconds:.0f} |",
            flush=True,
        )
        if method in ("none", "attention", "layer"):
            place = directory / method
            files.append(lwplugin.export(lwplugin.light(module), data, format="onnx", path=place).file)
    print("latency, ms:", dict(zip(("none", "attention", "layer"), latency_ms(files, arrays), strict=True)))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
