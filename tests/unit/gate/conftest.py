"""Comparisons with synthetic scores: enough to ask the gate every question it can be asked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Case = tuple[dict[str, Any], dict[str, np.ndarray]]


def side(digest: str, *, metrics: dict[str, float], p50: float, size: int) -> dict[str, Any]:
    return {
        "file_digest": digest * 32,
        "size_bytes": size,
        "compressed_bytes": size // 2,
        "load_ms": 4.0,
        "latency": {
            "p50_ms": p50,
            "p50_low_ms": p50 * 0.98,
            "p50_high_ms": p50 * 1.02,
            "p95_ms": p50 * 1.5,
            "p95_low_ms": p50 * 1.4,
            "p95_high_ms": p50 * 1.6,
            "n": 400,
        },
        "peak_memory_bytes": 60_000_000,
        "energy": {"state": "unavailable", "joules_per_inference": None, "reason": "no energy counter"},
        "parity": {"max_abs_error": 1e-4, "sqnr_db": 38.0, "n": 64},
        "metrics": metrics,
    }


@pytest.fixture
def make() -> Callable[..., Case]:
    """``make(n, lost, gained)``: a comparison of n examples, 90 % right in the parent; p50 10 → 5 ms."""

    def build(n: int = 2000, lost: int = 4, gained: int = 3) -> Case:
        baseline = np.ones(n)
        baseline[: n // 10] = 0.0
        candidate = baseline.copy()
        candidate[:gained] = 1.0
        candidate[n - lost :] = 0.0
        agreement = (baseline == candidate).astype(float)
        comparison = {
            "baseline": side("ab", metrics={"accuracy": float(baseline.mean())}, p50=10.0, size=1000),
            "candidate": side("cd", metrics={"accuracy": float(candidate.mean())}, p50=5.0, size=300),
            "speedup": {"estimate": 2.0, "low": 1.9, "high": 2.1, "confidence": 0.95},
            "noisy": False,
            "noise_reason": None,
        }
        scores = {
            "ids": np.arange(n),
            "baseline_scores": baseline,
            "candidate_scores": candidate,
            "agreement": agreement,
            "slice_label": np.arange(n) % 4,
        }
        return copy.deepcopy(comparison), scores

    return build
