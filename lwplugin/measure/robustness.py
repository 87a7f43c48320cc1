"""Both files on corrupted copies of the test, in their real runtimes: does the light one break where its
parent does not?"""

from __future__ import annotations

from typing import Any

import numpy as np

from lwplugin.data.corruptions import corrupted
from lwplugin.measure.config import MeasureConfig
from lwplugin.measure.result import Corrupted, Corruptions, Interval
from lwplugin.measure.score import Side, score
from lwplugin.measure.wire import Array
from lwplugin.progress import Progress, silent

CLEAN = "clean"


def copies(test: Any, config: MeasureConfig) -> list[tuple[str, int, Any]]:
    """The clean sample and its corrupted copies: (kind, severity, split). Reads a few examples only.

    Raises DataError for a corruption that these examples cannot have: before anything is measured.
    """
    if not config.corruptions or test is None:
        return []
    seen = test if config.max_examples is None else test.head(config.max_examples)
    sample = seen.sample(config.corruption_examples, config.corruption_seed)
    return [(CLEAN, 0, sample)] + [
        (kind, severity, corrupted(sample, kind, severity, seed=config.corruption_seed))
        for kind in config.corruptions
        for severity in config.severities
    ]


def score_copies(
    splits: list[tuple[str, int, Any]],
    task: Any,
    sides: list[Side],
    *,
    confidence: float,
    progress: Progress = silent,
) -> tuple[Corruptions | None, dict[str, Array]]:
    """Scores of baseline and candidate on every copy; one copy is read at a time, a batch at a time.

    The arrays are the per-example scores that scores.npz keeps: ``corrupted_<kind>_<severity>_<side>``.
    """
    if not splits:
        return None, {}
    rows, kept = [], {}
    for kind, severity, split in splits:
        progress(f"corruption {kind}", severity, None)
        arrays = score(split, task, sides, first=1).arrays
        rows.append(_row(kind, severity, arrays, confidence))
        for side in ("baseline", "candidate"):
            if severity and f"{side}_scores" in arrays:
                kept[f"corrupted_{kind}_{severity}_{side}"] = arrays[f"{side}_scores"]
    return Corruptions(metric=task.metric, rows=rows), kept


def _row(kind: str, severity: int, arrays: dict[str, Array], confidence: float) -> Corrupted:
    before, after = arrays.get("baseline_scores"), arrays.get("candidate_scores")
    scores: dict[str, Any] = dict.fromkeys(("baseline", "candidate", "difference", "lost", "gained"))
    if before is not None and after is not None:
        scores = {
            "baseline": float(np.mean(before)),
            "candidate": float(np.mean(after)),
            "difference": _difference(before, after, confidence),
            "lost": int((after < before).sum()),
            "gained": int((after > before).sum()),
        }
    return Corrupted(
        kind=kind,
        severity=severity,
        n=len(arrays["ids"]),
        agreement=float(np.mean(arrays["agreement"])),
        **scores,
    )


def _difference(before: Array, after: Array, confidence: float) -> Interval | None:
    """Candidate minus parent, paired; None where one example or a NaN bounds nothing."""
    from lwplugin.gate.pair import Pair

    if len(before) < 2 or not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    found = Pair(before, after).bounds(level=(1 + confidence) / 2, seed=0)
    return Interval(estimate=found.estimate, low=found.low, high=found.high, confidence=confidence)
