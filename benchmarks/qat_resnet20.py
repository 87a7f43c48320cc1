"""A Fashion-MNIST ResNet-20 in few bits: rounded, trained with its steps (`qat`), taught on in that form (`distill`).

    apt-get install dataset-fashion-mnist
    python benchmarks/qat_resnet20.py --weights resnet20-0.pt --json rows.json

One epoch over 10,000 training images wherever there is training, the same peak rate and schedule; accuracy on 10,000
test images in torch, stored size of the bundle's weights. Rows that the JSON file holds already are not made again.
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

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fashion

import lwplugin
from lwplugin.model.bundle import LightModel

EXAMPLES, LR = 10_000, 5e-4
TRAINED = {"finetune_epochs": 1, "finetune_examples": EXAMPLES, "finetune_lr": LR}
TAUGHT = {"epochs": 1, "examples_per_epoch": EXAMPLES, "lr": LR, "schedule": "onecycle", "optimizer": "adamw"}

Line = tuple[str, dict[str, Any]]
ROWS: dict[str, list[Line]] = {"int8": [("quantize", {"method": "int8"})]}
for bits in (4, 3):
    low: dict[str, Any] = {"method": "qat", "weight_bits": bits}
    rounded: Line = ("quantize", low | {"finetune_epochs": 0, "collapse": 0})
    ROWS |= {
        f"weight_only, {bits} bits": [("quantize", {"method": "weight_only", "bits": bits})],
        f"qat, {bits} bits, rounded only": [rounded],
        f"qat, {bits} bits, then distill soft": [rounded, ("distill", TAUGHT)],
        f"qat, {bits} bits": [("quantize", low | TRAINED)],
    }
ROWS["qat, 3 bits, then distill feature"] = [rounded, ("distill", TAUGHT | {"method": "feature"})]


def main() -> None:
    """Make what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fashion.add_options(parser)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, parent = fashion.pictures(options.data, options.n_train), fashion.network(options, 0)
    file: Path | None = options.json
    found: dict[str, Any] = json.loads(file.read_text()) if file and file.is_file() else {}
    if "float" not in found:
        found["float"] = measured(lwplugin.light(parent), data)
    for name in options.rows:
        if name in found:
            continue
        began = time.perf_counter()
        light = lwplugin.light(parent)
        for family, chosen in ROWS[name]:
            given = {"teacher": parent} if family == "distill" else {}
            light = getattr(lwplugin, family)(light, data, **given, **chosen)
        seconds = time.perf_counter() - began
        found[name] = measured(light, data) | {"seconds": seconds}
        print(f"# {name} {found[name]}", file=sys.stderr, flush=True)
        if file:
            file.write_text(json.dumps(found, indent=1))
    print("| | accuracy | change | weights file, of float |")
    print("|---|---:|---:|---:|")
    for name, row in found.items():
        change = f"{100 * (row['accuracy'] - found['float']['accuracy']):+.2f}"
        share = row["stored_bytes"] / found["float"]["stored_bytes"]
        print(f"| {name} | {row['accuracy']:.2%} | {change} | {share:.1%} |")


def measured(light: LightModel, data: lwplugin.data.Data) -> dict[str, Any]:
    """Accuracy on the test pictures, and what the bundle's weights take on disk."""
    with tempfile.TemporaryDirectory() as folder:
        light.save(Path(folder) / "bundle")
        stored = (Path(folder) / "bundle" / "weights.safetensors").stat().st_size
    return {"accuracy": fashion.accuracy(light.module, data), "stored_bytes": stored}


if __name__ == "__main__":
    main()
