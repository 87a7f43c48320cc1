"""Int8 beside onnxruntime's and NNCF's own, in one run: answers in the real kernels, bytes, and speed against float.

    pip install nncf==3.4.0 -c constraints.txt
    python benchmarks/int8_peers.py --net resnet20 --work int8

`int8_cases.py` names nets and data, `quantizers.py` the others' calls. All files come from one float model and the same
calibration inputs. Speed is batch 1, one process a file, short blocks of runs in turn, with one and with two threads;
the interval is that over ten starts of all processes. Files, answers and times are kept under ``--work``: a run that
was cut goes on there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8_cases import CASES, Case
from interleaved import answers, latencies, size, speed
from quantizers import Maker, nncf, onnxruntime_dynamic, onnxruntime_static

from lwplugin.export import export
from lwplugin.model.bundle import LightModel
from lwplugin.quantize import quantize
from lwplugin.quantize.scheme import cpu_flags, decibels

FLOAT = "float, onnx"
CNN_PEERS: dict[str, Maker] = {
    **{
        f"onnxruntime static, {calibrator.lower()}{', reduced range' * reduced}": onnxruntime_static(
            reduced=reduced, calibrator=calibrator
        )
        for calibrator in ("MinMax", "Percentile")
        for reduced in (False, True)
    },
    **{
        f"NNCF {preset}, {bias} bias correction, {to}": nncf(to, bias=bias, preset=preset)
        for to in ("onnx", "openvino")
        for preset, bias in (("performance", "fast"), ("mixed", "fast"), ("mixed", "no"))
    },
}
PEERS: dict[str, dict[str, Maker]] = {
    "resnet20": CNN_PEERS,
    "lite0": CNN_PEERS,
    "minilm": {
        "onnxruntime dynamic": onnxruntime_dynamic(),
        "onnxruntime dynamic, reduced range": onnxruntime_dynamic(reduced=True),
        **{
            f"NNCF transformer, {bias} bias correction, {to}": nncf(to, bias=bias, transformer=True)
            for to in ("onnx", "openvino")
            for bias in ("fast", "no")
        },
    },
}
_RANGES: dict[str, dict[str, Any]] = {"int8": {}, "int8, reduced range": {"reduce_range": True}}
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "resnet20": {
        **_RANGES,
        "int8, first layer float": {"first_layer": False},
        "int8, symmetric ranges": {"symmetric": True},
    },
    "lite0": {
        **_RANGES,
        "int8, first layer float": {"first_layer": False},
        "int8, equalized": {"equalization": True},
        "int8, not equalized": {"equalization": False},
    },
    "minilm": {
        **_RANGES,
        "int8, calibrated ranges": {"activations": "static"},
        "int8, symmetric ranges": {"activations": "static", "symmetric": True},
        "int8, embeddings in 6 bits": {"embedding_bits": 6},
        "int8, embeddings in 6 bits, rare rows in 4": {"embedding_bits": 6, "rare_bits": 4},
    },
}
Row = Callable[[Path], Path]
"""Writes a row's file into a directory."""


def rows(case: Case, net: str, work: Path) -> dict[str, Row]:
    """Every row of a net's table by name."""

    def floating(to: str, directory: Path) -> Path:
        return Path(export(case.net, case.data, format=to, path=directory).file)

    def small(name: str) -> LightModel:
        kept = place(work, f"{name}, torch").with_suffix(".pt")
        if kept.exists():
            known: LightModel = torch.load(kept, weights_only=False)
            return known
        start = time.perf_counter()
        made = quantize(case.net, case.data, method="int8", **case.options, **OURS[net][name])
        details = made.history[-1].details
        print(f"# {name}: {time.perf_counter() - start:.0f} s, picked {details['picked']}", flush=True)
        for candidate, found in details["candidates"].items():
            print(f"#   {candidate}: {found['output_sqnr_db']:.1f} dB, {found['agreement']:.4f}", flush=True)
        torch.save(made, kept)
        return made

    def ours(name: str, to: str, directory: Path) -> Path:
        return Path(export(small(name), case.data, format=to, path=directory).file)

    def peer(make: Maker, directory: Path) -> Path:
        return make(work / "float_onnx" / "model.onnx", case.batches(32), directory)

    return {
        FLOAT: partial(floating, "onnx"),
        "float, openvino": partial(floating, "openvino"),
        **{name: partial(peer, make) for name, make in PEERS[net].items()},
        **{f"{name}, {to}": partial(ours, name, to) for name in OURS[net] for to in ("onnx", "openvino")},
    }


def place(work: Path, name: str) -> Path:
    """A row's directory."""
    return work / "_".join(name.replace(",", "").split())


def made(work: Path, wanted: dict[str, Row]) -> dict[str, Path]:
    """The rows' files, written where they are not there yet; a row that cannot be made is said and left out."""
    files: dict[str, Path] = {}
    for name, write in wanted.items():
        directory = place(work, name)
        note = directory / "row.json"
        if not note.exists():
            directory.mkdir(parents=True, exist_ok=True)
            start = time.process_time()
            try:
                file = write(directory)
            except Exception as error:
                print(f"# {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            seconds = time.process_time() - start
            note.write_text(json.dumps({"file": str(file), "cpu_seconds": seconds}))
            print(f"# {name}: {seconds:.0f} CPU s", flush=True)
        files[name] = Path(json.loads(note.read_text())["file"])
    return files


def asked(case: Case, work: Path, files: dict[str, Path]) -> dict[str, dict[str, np.ndarray]]:
    """Every file's answers, worked out where they are not there yet."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, file in files.items():
        kept = place(work, name) / "answers.npz"
        if not kept.exists():
            got = {key: answers(file, feed, batch=case.batch) for key, feed in case.questions.items()}
            np.savez(kept, **got)
        with np.load(kept) as stored:
            found[name] = {key: stored[key] for key in stored.files}
    return found


def timed(case: Case, work: Path, files: dict[str, Path], options: argparse.Namespace) -> None:
    """Times of all files, with each number of threads, into ``work``."""
    questions = case.questions["test"]
    feeds = [{name: value[k : k + 1] for name, value in questions.items()} for k in range(4)]
    for threads in options.threads:
        times = latencies(files, feeds, threads=threads, seconds=options.seconds, starts=options.starts)
        np.savez(work / f"times_{threads}.npz", **times)


def table(
    case: Case, work: Path, files: dict[str, Path], found: dict[str, dict[str, np.ndarray]], base: str
) -> None:
    """Print what is known of all rows, their speed beside that of ``base``."""
    times = {file.stem[-1]: dict(np.load(file)) for file in sorted(work.glob("times_*.npz"))}
    head = ["", *case.judge(found[FLOAT], found[FLOAT]), "SQNR", "bytes"]
    head += [
        f"{title}, {threads} thread{'s' * (threads != '1')}" for threads in times for title in ("ms", "speed")
    ]
    print("|", " | ".join(head), "|\n|", "---|" * len(head), sep="")
    wanted = found[FLOAT]["test"]
    for name, got in found.items():
        noise = float(np.square(got["test"] - wanted).sum())
        cells = [name, *case.judge(got, found[FLOAT]).values()]
        cells += [
            f"{decibels(float(np.square(wanted).sum()), noise):.1f} dB" if noise else "",
            f"{size(files[name]):,}",
        ]
        for each in times.values():
            if name not in each:
                cells += ["", ""]
                continue
            ratio, low, high = speed(each[base], each[name])
            cells += [f"{np.median(each[name]):.3f}", f"{ratio:.2f}× ({low:.2f} to {high:.2f})"]
        print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=CASES, required=True)
    parser.add_argument("--work", type=Path, default=Path("int8_peers"))
    parser.add_argument("--stages", nargs="+", default=["make", "time"], choices=("make", "time"))
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns of rows; the float file always is")
    parser.add_argument("--weights", default="resnet20-{seed}.pt", help="of the ResNet-20")
    parser.add_argument(
        "--distinct", action="store_true", help="Lite0: test photographs unlike calibration's"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of timed runs for each number of threads"
    )
    parser.add_argument("--starts", type=int, default=10, help="times all files are started anew")
    parser.add_argument("--base", default=FLOAT, help="the row whose speed is 1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("# CPU:", ", ".join(sorted(f for f in cpu_flags() if "vnni" in f or "amx" in f)) or "no VNNI")
    work = options.work / f"{options.net}{'-distinct' * options.distinct}"
    case = CASES[options.net](options)
    wanted = {
        name: row
        for name, row in rows(case, options.net, work).items()
        if name == FLOAT or any(fnmatchcase(name, pattern) for pattern in options.rows)
    }
    if "make" not in options.stages:
        wanted = {name: row for name, row in wanted.items() if (place(work, name) / "row.json").exists()}
    files = made(work, wanted)
    found = asked(case, work, files)
    if "time" in options.stages:
        timed(case, work, files, options)
    table(case, work, files, found, options.base)


if __name__ == "__main__":
    main()
