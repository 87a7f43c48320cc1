"""Low-bit weights beside onnxruntime's, NNCF's and plain rounding, in one run: answers of the ONNX files, and bytes.

    pip install nncf==3.4.0 -c constraints.txt
    python benchmarks/weight_only.py --model minilm --work low_bits
    python benchmarks/weight_only.py --model lite0 --work low_bits
    python benchmarks/weight_only.py --model resnet20 --work low_bits --weights resnet20-0.pt

MiniLM is judged on BBC News, 2,033 articles of 128 tokens, by a logistic head and zero-shot (the mean over twelve sets
of prompts); EfficientNet-Lite0 by agreement with its float answers on 200 crops of photographs that calibration has not
seen (there are no labels); a ResNet-20 by accuracy on Fashion-MNIST. All files come from one float model and run in
ONNX Runtime, NNCF's in OpenVINO. Plain rounding has the same groups and bits as ours. Files and answers are kept under
``--work``: a run that was cut goes on there.
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

import fashion
import numpy as np
import torch
from int8_cases import TEMPLATES, judged_vectors
from interleaved import answers, latencies, size
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
        "auto, 15 MB": {"bits": "auto", "size": 0.16},
        "plain rounding, 3 bits": {"bits": 3, "rounding": "nearest"},
        "3 bits": {"bits": 3},
        "auto, size of 3 bits": {"bits": "auto", "size": 0.104},
    }
    peers = {
        "onnxruntime MatMulNBits": functools.partial(matmul_nbits, embeddings=False),
        "onnxruntime MatMulNBits, embeddings too": functools.partial(matmul_nbits, embeddings=True),
        "NNCF int4, openvino": functools.partial(nncf_int4, feeds=feeds, aware=False),
        "NNCF int4, AWQ, scale estimation, openvino": functools.partial(nncf_int4, feeds=feeds, aware=True),
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


def resnet20(weights: str) -> Case:
    data = fashion.pictures(None, None)
    given = argparse.Namespace(weights=weights, net="resnet20", epochs=4, data=None, n_train=None)
    test = next(data.need("test").batches(10_000))
    labels = np.asarray(test.targets)
    ours: dict[str, dict[str, Any]] = {}
    for bits in (4, 3):
        ours |= {
            f"plain rounding, {bits} bits": {"bits": bits, "rounding": "nearest"},
            f"{bits} bits": {"bits": bits},
            f"{bits} bits, adaround": {"bits": bits, "rounding": "adaround"},
        }

    def judge(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, str]:
        answers, meant = got["test"].argmax(1), wanted["test"].argmax(1)
        return {
            "accuracy": f"{(answers == labels).mean():.2%}",
            "same answer": f"{(answers == meant).mean():.2%}",
        }

    asked = {name: tensor.numpy() for name, tensor in tensors(test.inputs).items()}
    return Case(fashion.network(given, 0), data, {"test": asked}, judge, ours, {})


CASES: dict[str, Callable[[], Case]] = {"minilm": minilm, "lite0": efficientnet}


def write(case: Case, name: str, file: Path, floating: Path) -> None:
    """The file of one row."""
    if name == MAIN:
        export(case.net, case.data, path=file.parent)
    elif name in case.peers:
        case.peers[name](floating, file)
    else:
        light = quantize(case.net, case.data, method="weight_only", **case.ours[name])
        export(light, case.data, path=file.parent)
        bits = [row["weight_bits"] for row in light.history[-1].details["layers"]]
        print(f"# {name}: bits {bits}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=(*CASES, "resnet20"), default="minilm")
    parser.add_argument("--weights", default="resnet20-{seed}.pt", help="of the ResNet-20")
    parser.add_argument("--work", type=Path, default=Path("low_bits"))
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of rows; float always is")
    parser.add_argument("--seconds", type=float, default=0.0, help="of timed runs, on one thread")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = resnet20(options.weights) if options.model == "resnet20" else CASES[options.model]()
    names = [n for n in (*case.peers, *case.ours) if any(fnmatchcase(n, pattern) for pattern in options.rows)]
    files: dict[str, Path] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in (MAIN, *names):
        directory = options.work / options.model / "_".join(name.replace(",", "").split())
        kept = directory / "answers.npz"
        files[name] = directory / ("model.xml" if name.endswith("openvino") else "model.onnx")
        if not kept.exists():
            directory.mkdir(parents=True, exist_ok=True)
            start = time.process_time()
            write(case, name, files[name], files[MAIN])
            print(f"# {name}: {time.process_time() - start:.0f} CPU s", flush=True)
            np.savez(
                kept, **{key: answers(files[name], feed, batch=25) for key, feed in case.questions.items()}
            )
        found[name] = dict(np.load(kept))
    one = {key: value[:1] for key, value in case.questions["test"].items()}
    times = latencies(files, [one], threads=1, seconds=options.seconds, starts=1) if options.seconds else {}
    head = ["", *case.judge(found[MAIN], found[MAIN]), "MB", *["ms"] * bool(times)]
    print("|", " | ".join(head), "|")
    print("|" + "---|" * len(head))
    for name, got in found.items():
        cells = [name, *case.judge(got, found[MAIN]).values(), f"{size(files[name]) / 1e6:.2f}"]
        cells += [f"{np.median(times[name]):.1f}"] if times else []
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
