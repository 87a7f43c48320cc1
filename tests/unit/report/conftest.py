"""A run with synthetic numbers in the shapes that real steps write: for looking at pages, not at models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lwplugin.gate import Policy, gate
from lwplugin.report import ReportInputs

LAYERS = [
    ("stem.conv", "Conv2d", (32, 1, 3, 3), (32, 1, 3, 3), 18_432),
    ("stage1.block0.conv1", "Conv2d", (32, 32, 3, 3), (24, 32, 3, 3), 589_824),
    ("stage1.block0.conv2", "Conv2d", (32, 32, 3, 3), (32, 24, 3, 3), 589_824),
    ("stage2.block0.conv1", "Conv2d", (64, 32, 3, 3), (32, 32, 3, 3), 294_912),
    ("stage2.block0.conv2", "Conv2d", (64, 64, 3, 3), (64, 32, 3, 3), 589_824),
    ("stage2.block0.shortcut.conv", "Conv2d", (64, 32, 1, 1), (64, 32, 1, 1), 32_768),
    ("head.fc1", "Linear", (128, 1024), (56, 1024), 131_072),
    ("head.fc2", "Linear", (10, 128), (10, 56), 1_280),
]


def _latency(random: np.random.Generator, centre: float) -> dict[str, Any]:
    samples = np.sort(centre * (1 + random.gamma(2.0, 0.03, 900)))
    at = {q: float(np.quantile(samples, q)) for q in (0.48, 0.5, 0.52, 0.93, 0.95, 0.968)}
    return {
        "p50_ms": at[0.5],
        "p50_low_ms": at[0.48],
        "p50_high_ms": at[0.52],
        "p95_ms": at[0.95],
        "p95_low_ms": at[0.93],
        "p95_high_ms": at[0.968],
        "confidence": 0.95,
        "n": 900,
        "samples_ms": random.permutation(samples).tolist(),
    }


def _measurement(
    random: np.random.Generator, *, digest: str, size: int, p50: float, accuracy: float, memory: int
) -> dict[str, Any]:
    return {
        "format": "onnx",
        "runtime": "onnxruntime",
        "runtime_version": "0.0-synthetic",
        "device": "cpu",
        "threads": 1,
        "batch": 1,
        "file_digest": digest * 32,
        "size_bytes": size,
        "compressed_bytes": int(size * 0.92),
        "load_ms": p50 * 3,
        "latency": _latency(random, p50),
        "peak_memory_bytes": memory,
        "energy": {
            "state": "unavailable",
            "joules_per_inference": None,
            "reason": "this machine shows no energy counter",
        },
        "parity": {"max_abs_error": 1e-4, "sqnr_db": 37.0, "n": 64},
        "metrics": {"accuracy": accuracy},
        "warnings": [],
        "machine": {
            "cpu": "Synthetic CPU",
            "arch": "x86_64",
            "cores": 2,
            "isa": "avx2",
            "os": "Linux",
            "memory_bytes": 24_000_000_000,
            "load": 0.4,
            "runtimes": {"onnxruntime": "0.0-synthetic"},
        },
    }


def _profile(factor: float, tail: str) -> dict[str, Any]:
    """Conv kernels of the layers, faster by ``factor``, and one kernel without a layer."""
    times = [(name, kind, factor * macs / 1e6) for name, kind, _, _, macs in LAYERS]
    kernels = [
        {"name": f"node_{k}", "layer": layer, "kind": kind, "kernel": "", "provider": "CPU", "ms": ms}
        for k, (layer, kind, ms) in enumerate([*times, (None, tail, 0.1)])
    ]
    total = sum(kernel["ms"] for kernel in kernels)
    kernels = [{**kernel, "share": kernel["ms"] / total} for kernel in kernels]
    return {"kernels": kernels, "total_ms": total, "runs": 50, "fallback": 0.0, "fallback_kinds": []}


def _cost(which: int) -> dict[str, Any]:
    layers = []
    for name, kind, *rest in LAYERS:
        before, shape, macs = int(np.prod(rest[0])), rest[which], rest[2]
        params = int(np.prod(shape))
        quantized = "Quantized" + kind if which else kind
        layers.append(
            {
                "name": name,
                "kind": quantized,
                "params": params,
                "macs": macs * params // before,
                "size_bytes": params * (1 if which else 4),
                "out_shape": [1, shape[0]],
            }
        )
    return {key: sum(layer[key] for layer in layers) for key in ("params", "macs", "size_bytes")} | {
        "layers": layers
    }


def _history() -> list[dict[str, Any]]:
    pruned = [
        {"name": name, "type": kind, "shape_before": list(before), "shape_after": list(after)}
        for name, kind, before, after, _ in LAYERS
    ]
    groups = [
        {
            "name": name,
            "unit_channels": 1,
            "units_before": before[0],
            "units_after": after[0],
            "removed": list(range(before[0] - after[0])),
            "importance_lost": 0.01 * (before[0] - after[0]),
        }
        for name, _, before, after, _ in LAYERS
        if name != "head.fc2"
    ]
    ranges = [
        {
            "name": name,
            "type": "Quantized" + kind,
            "weight_bits": 7,
            "activation_bits": 8,
            "weight_sqnr_db": 38.0 + 0.7 * k,
            "input_range": [0.0, 4.1 + k],
            "output_range": [-6.2, 5.7 + k],
        }
        for k, (name, kind, *_) in enumerate(LAYERS)
    ]
    return [
        {
            "step": "prune",
            "method": "taylor",
            "seed": 0,
            "config": {"macs": 0.5, "finetune_epochs": 1},
            "metrics": {"macs_kept": 0.53, "calibration_agreement": 0.981},
            "details": {
                "layers": pruned,
                "removed": groups,
                "left_alone": [
                    {
                        "name": "stem.conv",
                        "reason": "its channels are tied to the residual stream by an addition",
                    },
                    {"name": "head.fc2", "reason": "its outputs are the model's outputs"},
                ],
            },
        },
        {
            "step": "quantize",
            "method": "int8",
            "seed": 0,
            "config": {"calibrator": "entropy", "examples": 512},
            "metrics": {"output_sqnr_db": 33.1},
            "details": {"layers": ranges, "skipped": []},
        },
    ]


@pytest.fixture
def make() -> Callable[..., ReportInputs]:
    """``make(lost=…, policy=…, budget=…, **parts)``: inputs with every part; a part given replaces ours."""

    def build(
        *, lost: int = 9, gained: int = 6, policy: Policy | None = None, budget: Any = None, **parts: Any
    ) -> ReportInputs:
        random = np.random.default_rng(20261124)
        n = 4000
        label = random.integers(0, 10, n)
        answers = label.copy()
        wrong = random.choice(n, 320, replace=False)
        answers[wrong] = (answers[wrong] + 1) % 10
        light = answers.copy()
        light[wrong[:gained]] = label[wrong[:gained]]
        right = np.setdiff1d(np.arange(n), wrong)[:lost]
        light[right] = (label[right] + 3) % 10
        scores = {
            "ids": np.arange(n),
            "baseline_scores": (answers == label).astype(float),
            "candidate_scores": (light == label).astype(float),
            "agreement": (answers == light).astype(float),
            "baseline_predictions": answers,
            "candidate_predictions": light,
            "slice_label": label,
        }
        accuracy = {name: float(scores[f"{name}_scores"].mean()) for name in ("baseline", "candidate")}
        sides = {
            "baseline": _measurement(
                random, digest="3f", size=1_090_000, p50=2.4, accuracy=accuracy["baseline"], memory=61_000_000
            ),
            "candidate": _measurement(
                random, digest="a9", size=171_000, p50=1.05, accuracy=accuracy["candidate"], memory=52_000_000
            ),
        }
        sides["baseline"]["profile"] = _profile(1.0, "ReduceMean")
        sides["candidate"]["profile"] = _profile(0.4, "QLinearGlobalAveragePool")
        comparison = sides | {
            "speedup": {"estimate": 2.28, "low": 2.21, "high": 2.36, "confidence": 0.95},
            "noisy": False,
            "noise_reason": None,
            "n": n,
        }
        policy = policy or Policy(max_drop={"accuracy": 0.01}, slices=("label",), max_slice_drop=0.05)
        budget = budget or {"size_bytes": 400_000, "p95_ms": 5, "macs": 2_000_000}
        after = _cost(1)
        ids = [*right[:8].tolist(), *wrong[:4].tolist()]
        whole: dict[str, Any] = {
            "name": "synthetic-cnn",
            "parent": {"uri": "models:/synthetic-cnn/3", "version": "3", "digest": "5c" * 32},
            "candidate": {"digest": "e1" * 32},
            "history": _history(),
            "cost_before": _cost(0),
            "cost_after": after,
            "comparison": comparison,
            "scores": scores,
            "verdict": gate(
                comparison,
                policy,
                budget=budget,
                scores=scores,
                cost={"macs": after["macs"], "params": after["params"]},
            ),
            "recipe": "model: models:/synthetic-cnn@champion\ncompress:\n  - prune: {method: taylor}\n",
            "target": {"name": "edge-cpu", "format": "onnx", "device": "cpu", "threads": 1, "budget": budget},
            "environment": {"python": "3.11", "lwplugin": "0.1.0"},
            "flips_images": random.random((len(ids), 1, 12, 12)),
            "flips_image_ids": ids,
            "labels": [f"class {k}" for k in range(10)],
            "notes": ["Synthetic numbers: this page shows a layout, not a model."],
        }
        return ReportInputs(**(whole | parts))

    return build
