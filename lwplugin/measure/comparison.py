"""A candidate beside its parent, with the per-example scores, in memory and in a directory."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, PrivateAttr, ValidationError

from lwplugin.errors import MeasureError
from lwplugin.measure.result import Corruptions, Interval, Measurement, Parity, Result
from lwplugin.measure.wire import Array

_JSON, _SCORES = "comparison.json", "scores.npz"


class Comparison(Result):
    """Both measured in one run, interleaved."""

    schema_version: int = 1
    baseline: Measurement
    candidate: Measurement
    speedup: Interval = Field(
        description="baseline time over candidate time; above 1 the candidate is faster"
    )
    throughput_speedup: Interval | None = Field(
        default=None, description="candidate's offline throughput over the baseline's"
    )
    difference: Parity | None = Field(description="candidate's outputs beside the baseline's")
    noisy: bool = Field(description="the timing is not usable; scores and sizes are")
    noise_reason: str | None
    n: int = Field(description="scored examples")
    corruptions: Corruptions | None = Field(
        default=None, description="scores on corrupted copies of the test, where they were asked for"
    )
    scores_digest: str | None = Field(default=None, description="sha256 of scores.npz once saved")
    _scores: dict[str, Array] = PrivateAttr(default_factory=dict)

    @property
    def scores(self) -> dict[str, Array]:
        """``ids``, ``baseline_scores``, ``candidate_scores``, ``agreement``, ``baseline_predictions``,
        ``candidate_predictions`` and ``slice_<name>``, one row per example, and the scores on corrupted copies,
        ``corrupted_<kind>_<severity>_<side>``; what labels would be needed for is absent where there are none."""
        return self._scores

    def __str__(self) -> str:
        """Both sides in a few lines; the fields are in ``repr``."""
        speed = self.speedup
        span = f"{speed.low:.3g} to {speed.high:.3g}" if speed.low and speed.high else "no bounds"
        lines = [f"{speed.estimate:.3g} times as fast ({span})" + (", noisy" if self.noisy else "")]
        return "\n".join([*lines, f"parent: {self.baseline}", f"candidate: {self.candidate}"])

    @property
    def numbers(self) -> dict[str, float]:
        """What a registration keeps of it: the candidate's numbers and, under ``parent_…``, its parent's."""
        return numbers_of(self.model_dump(mode="json"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comparison) and self.model_dump() == other.model_dump()

    def with_scores(self, scores: dict[str, Array]) -> Comparison:
        self._scores = scores
        return self

    def save(self, directory: Path | str) -> Comparison:
        """Write scores.npz, then comparison.json, each renamed into place; returns self with the digest."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **self._scores)
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        saved = self.model_copy(update={"scores_digest": digest}).with_scores(self._scores)
        _write(directory / _SCORES, packed.getvalue())
        _write(directory / _JSON, saved.model_dump_json(indent=1).encode())
        return saved


def numbers_of(measured: Mapping[str, Any]) -> dict[str, float]:
    """:attr:`Comparison.numbers` from a comparison's JSON form."""
    numbers = {"speedup": measured["speedup"]["estimate"]}
    for prefix, side in (("", measured["candidate"]), ("parent_", measured["baseline"])):
        latency = side["latency"]
        numbers |= {f"{prefix}{name}": value for name, value in side["metrics"].items()}
        numbers |= {f"{prefix}{name}": latency[name] for name in ("p50_ms", "p95_ms")}
        bounds = ("p50_high_ms", "p95_high_ms")
        numbers |= {f"{prefix}{name}": latency[name] for name in bounds if latency[name] is not None}
        numbers |= {f"{prefix}{name}": side[name] for name in ("size_bytes", "peak_memory_bytes", "load_ms")}
        if offline := side.get("throughput"):
            numbers[f"{prefix}examples_per_s"] = offline["examples_per_s"]
        if cold := side.get("cold_start"):
            numbers[f"{prefix}cold_start_ms"] = cold["total_ms"]
    return {name: float(value) for name, value in numbers.items()}


def load_comparison(directory: Path | str) -> Comparison:
    """Read what ``save`` wrote. Raises MeasureError where a file is missing, damaged or not of the pair."""
    directory = Path(directory)
    try:
        comparison = Comparison.model_validate_json((directory / _JSON).read_bytes())
        packed = (directory / _SCORES).read_bytes()
        if hashlib.sha256(packed).hexdigest() != comparison.scores_digest:
            raise MeasureError(
                f"{directory / _SCORES} does not belong to {_JSON}", got="another digest", do="measure again"
            )
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return comparison.with_scores(dict(arrays))
    except (OSError, ValidationError, ValueError) as error:
        raise MeasureError(
            f"Cannot read a comparison in {directory}", got=error, do="measure again"
        ) from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
