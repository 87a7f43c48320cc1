"""Low-bit weights beside onnxruntime's, NNCF's and plain rounding, in one run: answers of the ONNX files, and bytes.

    pip install nncf==3.4.0 -c constraints.txt
    python benchmarks/weight_only.py --model minilm --work low_bits
    python benchmarks/weight_only.py --model lite0 --work low_bits

MiniLM is judged on BBC News, 2,033 articles of 128 tokens, by a logistic head and zero-shot (the mean over four sets of
prompts); EfficientNet-Lite0 by agreement with its float answers on 200 crops of photographs that calibration has not
seen (there are no labels). All files come from one float model and run in ONNX Runtime. Plain rounding has the same
groups and bits as ours. Files and answers are kept under ``--work``: a run that was cut goes on there.
`real_models.py` says what to install.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_cases import TEMPLATES, judged_vectors
from int8_onnx import sessions
from real_models import CLASSES, Sentences, bbc, lite0, photo_crops, tokenized
from torch import nn
from weight_quantizers import Feed, matmul_nbits, nncf_int4

from lwplugin.data import Data
from lwplugin.data.batch import tensors
from lwplugin.export import export
from lwplugin.quantize import quantize

MAIN = "float"


@dataclass(frozen=True)
class Case:
    """``questions`` by name are asked of every file; ``judge`` makes a row's columns of the answers and float's."""

    net: nn.Module
    data: Data
    questions: dict[str, Feed]
    judge: Callable[[dict[str, np.ndarray], dict[str, np.ndarray]], dict[str, str]]
    ours: dict[str, dict[str, Any]]
    peers: dict[str, Callable[[Path, Path], None]]


def minilm() -> Case:
    data, arrays, labels = bbc()
    prompts = tokenized([template.format(name) for template in TEMPLATES for name in CLASSES])
    feeds = [{key: value[k : k + 1] for key, value in arrays.items()} for k in range(192)]

    judge = functools.partial(judged_vectors, labels, skip=192)
    ours = {
        "plain rounding, 4 bits": {"bits": 4, "rounding": "nearest"},
        "4 bits": {"bits": 4},
        "4 bits, adaround": {"bits": 4, "rounding": "adaround"},
        "auto, 15 MB": {"bits": "auto", "size": 0.1635},
        "plain rounding, 3 bits": {"bits": 3, "rounding": "nearest"},
        "3 bits": {"bits": 3},
        "auto, size of 3 bits": {"bits": "auto", "size": 0.104},
    }
    peers = {
        "onnxruntime MatMulNBits": functools.partial(matmul_nbits, embeddings=False),
        "onnxruntime MatMulNBits, embeddings too": functools.partial(matmul_nbits, embeddings=True),
        "NNCF int4": functools.partial(nncf_int4, feeds=feeds, aware=False),
        "NNCF int4, AWQ, scale estimation": functools.partial(nncf_int4, feeds=feeds, aware=True),
    }
    ours = {name: {"examples": 192, **options} for name, options in ours.items()}
    return Case(Sentences().eval(), data, {"test": arrays, "prompts": prompts}, judge, ours, peers)


def efficientnet() -> Case:
    data, test = photo_crops(distinct=True)
    ours = {
        "plain rounding, 4 bits, one group a row": {"bits": 4, "rounding": "nearest", "group_size": 4096},
        "plain rounding, 4 bits": {"bits": 4, "rounding": "nearest"},
        "4 bits": {"bits": 4},
        "4 bits, adaround": {"bits": 4, "rounding": "adaround"},
        "4 bits, groups of 32": {"bits": 4, "group_size": 32},
        "auto, size of 4 bits": {"bits": "auto", "size": 0.136},
    }

    def judge(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, str]:
        noise = np.square(got["test"] - wanted["test"]).sum()
        return {
            "same answer": f"{(got['test'].argmax(1) == wanted['test'].argmax(1)).mean():.1%}",
            "logits": f"{10 * np.log10(np.square(wanted['test']).sum() / noise):.1f} dB" if noise else "",
        }

    (name,) = tensors(data.example(1))
    return Case(lite0(), data, {"test": {name: test}}, judge, ours, {})


CASES: dict[str, Callable[[], Case]] = {"minilm": minilm, "lite0": efficientnet}


def write(case: Case, name: str, file: Path, floating: Path) -> None:
    """The ONNX file of one row."""
    if name == MAIN:
        export(case.net, case.data, path=file.parent)
    elif name in case.peers:
        case.peers[name](floating, file)
    else:
        light = quantize(case.net, case.data, method="weight_only", **case.ours[name])
        export(light, case.data, path=file.parent)
        bits = [row["weight_bits"] for row in light.history[-1].details["layers"]]
        print(f"# {name}: bits {bits}", flush=True)


def ask(file: Path, questions: dict[str, Feed], batch: int = 25) -> dict[str, np.ndarray]:
    """A file's answers to all questions."""
    session = sessions({"it": file})["it"]
    answers = {}
    for key, feed in questions.items():
        count = len(next(iter(feed.values())))
        parts = [{name: value[k : k + batch] for name, value in feed.items()} for k in range(0, count, batch)]
        answers[key] = np.concatenate([session.run(None, part)[0] for part in parts])
    return answers


def latencies(files: dict[str, Path], feed: Feed, rounds: int) -> dict[str, float]:
    """Median milliseconds at batch 1, sessions interleaved call by call."""
    running = sessions(files)
    times: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(rounds):
        one = {key: value[turn : turn + 1] for key, value in feed.items()}
        for name, session in running.items():
            start = time.perf_counter()
            session.run(None, one)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(CASES), default="minilm")
    parser.add_argument("--work", type=Path, default=Path("low_bits"))
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of rows; float always is")
    parser.add_argument("--rounds", type=int, default=0, help="calls of each file that are timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[options.model]()
    names = [n for n in (*case.peers, *case.ours) if any(fnmatchcase(n, pattern) for pattern in options.rows)]
    files: dict[str, Path] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in (MAIN, *names):
        directory = options.work / options.model / "_".join(name.replace(",", "").split())
        answers = directory / "answers.npz"
        files[name] = directory / "model.onnx"
        if not answers.exists():
            directory.mkdir(parents=True, exist_ok=True)
            start = time.process_time()
            write(case, name, files[name], files[MAIN])
            print(f"# {name}: {time.process_time() - start:.0f} CPU s", flush=True)
            np.savez(answers, **ask(files[name], case.questions))
        found[name] = dict(np.load(answers))
    times = latencies(files, case.questions["test"], options.rounds) if options.rounds else {}
    head = ["", *case.judge(found[MAIN], found[MAIN]), "MB", *["ms"] * bool(times)]
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for name, got in found.items():
        cells = [name, *case.judge(got, found[MAIN]).values(), f"{files[name].stat().st_size / 1e6:.2f}"]
        cells += [f"{times[name]:.1f}"] if times else []
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
