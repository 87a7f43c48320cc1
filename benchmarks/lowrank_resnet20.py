"""Low rank on a Fashion-MNIST ResNet-20: every method with and without the data and the repair, no training.

    python benchmarks/lowrank_resnet20.py --weights resnet20.pt --kept 0.5 --latency

The weights file is a state dict of examples/fashion-resnet20/resnet20.py (benchmarks/prune_resnet20.py trains one).
With --latency the parent and every product are exported to ONNX and timed side by side, batch 1, one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples" / "fashion-resnet20"))

from resnet20 import ResNet20  # noqa: E402

import lwplugin  # noqa: E402
from lwplugin.data import Data, evaluate, load  # noqa: E402
from lwplugin.model.cost import cost  # noqa: E402

KINDS = {
    "weights alone": {"data_aware": False, "repair": False},
    "data-aware": {"repair": False},
    "repaired": {},
}
METHODS: dict[str, dict[str, Any]] = {
    "svd": {},
    "svd, channel form": {"method": "svd", "form": "channel"},
    "pca": {},
    "tucker": {},
}


def speedup(parent: nn.Module, module: nn.Module, data: Data) -> str:
    """How many times as fast as the parent in ONNX Runtime, with its interval."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            lwplugin.export(each, data, format="onnx", path=Path(folder) / name)
            for each, name in ((module, "light"), (parent, "parent"))
        ]
        compared = lwplugin.measure(files[0], data, baseline=files[1], threads=1, max_examples=64)
    found = compared.speedup
    return f"{found.estimate:.2f}× ({found.low:.2f} to {found.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--kept", type=float, default=0.5, help="fraction of the parameters that stays")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load({"source": "fashion_mnist", "calibration": 1500}, "classification")
    parent = ResNet20()
    parent.load_state_dict(torch.load(options.weights, weights_only=True))
    parent.eval()
    whole = cost(parent, data.example(1))
    print(f"float {evaluate(parent, data.need('test'), data.task).metrics['accuracy']:.2%}")
    print("| method | | parameters | MACs | accuracy | as fast | seconds |\n|---|---|---|---|---|---|---|")
    rows = []
    for method in options.methods:
        for kind, settings in KINDS.items():
            if method == "pca" and kind == "weights alone":
                continue  # it is of responses to data
            chosen = {"method": method, **METHODS[method], **settings}
            began = time.process_time()
            module = lwplugin.factorize(parent, data, params=options.kept, collapse=0.0, **chosen).module
            seconds = time.process_time() - began
            after = cost(module, data.example(1))
            row = {
                "method": method,
                "kind": kind,
                "params": after.params / whole.params,
                "macs": after.macs / whole.macs,
                "accuracy": evaluate(module, data.need("test"), data.task).metrics["accuracy"],
                "speedup": speedup(parent, module, data) if options.latency and kind == "repaired" else "",
                "seconds": seconds,
            }
            rows.append(row)
            print(
                f"| {method} | {kind} | {row['params']:.1%} | {row['macs']:.1%} | {row['accuracy']:.2%} "
                f"| {row['speedup']} | {seconds:.0f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
