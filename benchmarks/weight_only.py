"""Weight-only integers beside plain rounding, in one run: answers, stored bytes, and latency of the ONNX files.

    python benchmarks/weight_only.py --model minilm --bits 4 3
    python benchmarks/weight_only.py --model lite0 --bits 4 --group-size 32

MiniLM is judged on BBC News by a logistic head and zero-shot, EfficientNet-Lite0 by agreement with its float answers on
200 photo crops (there are no labels). Plain rounding has the same groups and bits, each weight rounded on its own.
`real_models.py` says what to install. Latency is batch 1 on one thread, files interleaved call by call.
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
from real_models import Sentences, bbc, judged, lite0, photo_crops, prompts
from torch import nn

from lwplugin.data import Data
from lwplugin.data.batch import call, tensors
from lwplugin.export import export
from lwplugin.quantize import quantize


@torch.no_grad()
def answers(module: nn.Module, inputs: dict[str, np.ndarray] | np.ndarray, batch: int = 50) -> np.ndarray:
    """Outputs for all inputs, [n, …]."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    parts = []
    for start in range(0, len(first), batch):
        span = slice(start, start + batch)
        if isinstance(inputs, dict):
            parts.append(call(module, {key: torch.from_numpy(value[span]) for key, value in inputs.items()}))
        else:
            parts.append(call(module, torch.from_numpy(inputs[span])))
    return torch.cat(parts).numpy()


def latency_ms(files: dict[str, Path], data: Data, rounds: int) -> dict[str, float]:
    """Median milliseconds a call."""
    feed = {name: tensor.numpy() for name, tensor in tensors(data.example(1)).items()}
    running = sessions(files)
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, session in running.items():
            start = time.perf_counter()
            session.run(None, feed)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(values[rounds // 5 :])) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("minilm", "lite0"), default="minilm")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--articles", type=int, default=None, help="judge on so many articles only")
    parser.add_argument("--rounds", type=int, default=60, help="0 exports and times nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net: nn.Module
    if options.model == "minilm":
        net = Sentences().eval()
        data, arrays, labels = bbc()
        count = options.articles or len(labels)
        inputs: Any = {key: value[:count] for key, value in arrays.items()}
    else:
        net = lite0()
        data, inputs = photo_crops()
    wanted = answers(net, inputs)

    def report(name: str, module: nn.Module, size_bytes: int) -> None:
        got = answers(module, inputs)
        if options.model == "minilm":
            head, zero_shot = judged(got, labels[:count], prompts(module))
            found = f"head {head:.2%} | zero-shot {zero_shot:.2%} | cosine {(got * wanted).sum(1).mean():.4f}"
        else:
            found = f"agreement {(got.argmax(1) == wanted.argmax(1)).mean():.1%}"
        print(f"| {name} | {found} | {size_bytes / 1e6:.1f} MB |", flush=True)

    example = data.example(1)
    report("float", net, sum(p.nbytes for p in net.parameters()))
    files: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as temporary:
        if options.rounds:
            files["float"] = export(net, data, path=Path(temporary) / "float").file
        for bits in options.bits:
            for rounding in ("nearest", "compensated"):
                chosen = {"bits": bits, "group_size": options.group_size, "rounding": rounding}
                light = quantize(net, data, method="weight_only", **chosen)
                report(f"{bits} bits, {rounding}", light.module, light.cost(example).size_bytes)
            for form in ("unpacked", "packed") if options.rounds else ():
                name = f"{bits} bits, {form}"
                files[name] = export(light, data, path=Path(temporary) / name, weights=form).file
        for name, median in latency_ms(files, data, options.rounds).items() if files else ():
            print(f"| {name} | {median:.1f} ms | {files[name].stat().st_size / 1e6:.1f} MB |", flush=True)


if __name__ == "__main__":
    main()
