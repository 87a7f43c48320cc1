"""Seconds to export a float model, beside the bare exporter's, in one process that has imported everything.

    python benchmarks/export_time.py --json export_time.json
    python benchmarks/export_time.py --json export_time.json --readme lwplugin/export/README.md

Models, data and installation are those of `parity.py`. Bare: `torch.onnx.export`, `openvino.convert_model` on the torch
module, `torch.export`; for TFLite and ExecuTorch the converter's own time, inside the toolchain, on the program that
we hand over. Ours: `write` is until the file lies there, `check` the fresh process in which it is compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parity import CASES, Case, grid, write_between

from lwplugin.data import from_arrays
from lwplugin.data.batch import tensors
from lwplugin.export import export
from lwplugin.export.source import OneOutput

FORMATS = ("onnx", "openvino", "torch_export", "tflite", "executorch")


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.perf_counter()
    with torch.no_grad():
        work()
    return time.perf_counter() - began


def bare(case: Case, form: str, place: Path) -> float | None:
    """Seconds of the exporter that runs in this process; None for the toolchains'."""
    inputs = case.data.example(2)
    module = OneOutput(case.module, case.data.task, inputs).eval()
    arguments = tuple(tensors(inputs).values())
    shapes = (tuple({0: torch.export.Dim("batch")} for _ in arguments),)
    if form == "onnx":
        return timed(
            lambda: torch.onnx.export(
                module, arguments, place / "m.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False
            )
        )
    if form == "torch_export":
        return timed(
            lambda: torch.export.save(
                torch.export.export(module, arguments, dynamic_shapes=shapes), place / "m.pt2"
            )
        )
    if form == "openvino":
        import openvino

        return timed(
            lambda: openvino.save_model(
                openvino.convert_model(module, example_input=arguments), place / "m.xml"
            )
        )
    return None


def ours(case: Case, form: str, place: Path) -> dict[str, float]:
    """Seconds until the file is written, until it is checked, and what the toolchain's converter says."""
    seen: list[float] = [time.perf_counter()]
    made = export(
        case.module,
        case.data,
        format=form,
        path=place,
        progress=lambda *_: seen.append(time.perf_counter()),
        **({"batch": 1} if form in ("tflite", "executorch") else {}),
    )
    found = {"write": seen[-2] - seen[0], "check": seen[-1] - seen[-2]}
    return found | ({"converter": made.meta["convert_s"]} if "convert_s" in made.meta else {})


def warm() -> None:
    """Whatever is imported or built on first use."""
    data = from_arrays(test=(np.zeros((20, 4), np.float32), None), task="embedding", duplicates="ignore")
    case = Case(nn.Linear(4, 2), data, lambda _: 0.0)
    for form in ("onnx", "openvino", "torch_export"):
        with tempfile.TemporaryDirectory() as directory:
            bare(case, form, Path(directory))
            ours(case, form, Path(directory))


def cell(row: dict[str, float] | None) -> str:
    """``bare / write + check``."""
    if row is None:
        return ""
    return f"{row['bare']:.1f} / {row['write']:.1f} + {row['check']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("export_time.json"))
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--resnet20", default="resnet20-{seed}.pt", help="state dict of the float net")
    parser.add_argument("--fashion", type=Path, help="directory of the four idx.gz files")
    parser.add_argument("--readme", type=Path, help="write the table into this file and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    wanted = [(name, form) for name in options.models for form in options.formats]
    if not options.readme and any(f"{name}/{form}" not in rows for name, form in wanted):
        warm()
        cases = {name: CASES[name](options) for name in options.models}
        for name, form in wanted:
            if f"{name}/{form}" in rows:
                continue
            with tempfile.TemporaryDirectory() as directory:
                alone = bare(cases[name], form, Path(directory))
                row = ours(cases[name], form, Path(directory))
            rows[f"{name}/{form}"] = {"bare": row.pop("converter", 0.0) if alone is None else alone, **row}
            options.json.write_text(json.dumps(rows, indent=1))
            print(name, form, rows[f"{name}/{form}"], file=sys.stderr, flush=True)
    names = [name for name in CASES if any(key.startswith(f"{name}/") for key in rows)]
    lines = {f"`{form}`": [cell(rows.get(f"{name}/{form}")) for name in names] for form in FORMATS}
    table = grid("seconds", names, lines)
    if options.readme:
        write_between(options.readme, "export time", table)
    else:
        print(table)


if __name__ == "__main__":
    main()
