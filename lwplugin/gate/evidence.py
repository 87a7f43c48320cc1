"""What the gate judges, read from a comparison and checked before any statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from lwplugin.artifact import digest_file
from lwplugin.errors import GateError

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]
# How a measurement's JSON writes what JSON has no number for.
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}
COMPARISON_FILE, SCORES_FILE = "comparison.json", "scores.npz"
COPIES = "corrupted_"


@dataclass(frozen=True)
class Evidence:
    """Two measurements as plain dicts, and per-example arrays, all of one length."""

    baseline: dict[str, Any] | None
    candidate: dict[str, Any] | None
    speedup: dict[str, Any] | None
    noisy: bool
    noise_reason: str
    ids: npt.NDArray[np.int64] | None
    baseline_scores: Floats | None
    candidate_scores: Floats | None
    agreement: Floats | None
    slices: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)
    corruptions: dict[str, Any] | None = None
    """What the comparison says of corrupted copies of the test."""
    copies: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Scores on those copies, named as ``measure/robustness.py`` names them."""

    @property
    def n(self) -> int:
        for array in (self.candidate_scores, self.agreement):
            if array is not None:
                return len(array)
        return 0


def read_evidence(comparison: object, scores: Arrays | Path | str | None = None) -> Evidence:
    """Evidence from a comparison (object, its JSON form, or its directory) and its per-example arrays.

    Raises GateError where something is there but cannot be read; what is merely missing stays None, for the
    judge to answer.
    """
    if isinstance(comparison, str | Path):
        directory = Path(comparison)
        if scores is None and (directory / SCORES_FILE).is_file():
            scores = directory / SCORES_FILE
        comparison = _read_json(directory / COMPARISON_FILE if directory.is_dir() else directory)
    elif scores is None:
        held = getattr(comparison, "scores", None)
        scores = held if isinstance(held, Mapping) else getattr(held, "arrays", None)
    content = _as_dict(comparison)
    sealed = content.get("scores_digest")
    if isinstance(scores, str | Path) and sealed is not None and digest_file(scores) != sealed:
        raise GateError(
            "The per-example scores do not belong to the comparison",
            got=f"{scores} with another digest than recorded",
            do="run the measure step again",
        )
    arrays = _read_arrays(scores) if isinstance(scores, str | Path) else dict(scores or {})
    per_example = _check_lengths(
        {
            name: np.asarray(values)
            for name, values in arrays.items()
            if name in {"ids", "baseline_scores", "candidate_scores", "agreement"}
            or name.startswith("slice_")
        }
    )
    ids = per_example.get("ids")
    return Evidence(
        baseline=content.get("baseline"),
        candidate=content.get("candidate"),
        speedup=content.get("speedup"),
        noisy=bool(content.get("noisy", False)),
        noise_reason=str(content.get("noise_reason") or ""),
        ids=None if ids is None else ids.astype(np.int64),
        baseline_scores=_floats(per_example.get("baseline_scores")),
        candidate_scores=_floats(per_example.get("candidate_scores")),
        agreement=_floats(per_example.get("agreement")),
        slices={
            name.removeprefix("slice_"): values.astype(str)
            for name, values in sorted(per_example.items())
            if name.startswith("slice_")
        },
        corruptions=content.get("corruptions"),
        copies={name: np.asarray(values) for name, values in arrays.items() if name.startswith(COPIES)},
    )


def number(content: Mapping[str, Any] | None, *path: str) -> float | None:
    """The number at ``path``, or None where it, or a part of the path, is not there. NaN stays NaN."""
    value: Any = content
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def finite(value: float | None) -> float | None:
    """``value`` where it is a finite number, else None: what JSON can say."""
    return value if value is not None and math.isfinite(value) else None


def _as_dict(comparison: object) -> dict[str, Any]:
    if isinstance(comparison, Mapping):
        return dict(comparison)
    dump = getattr(comparison, "model_dump", None)
    if dump is None:
        raise GateError(
            "The gate judges a comparison of a candidate with its parent",
            got=type(comparison).__name__,
            do="pass what lwplugin.measure(candidate, data, baseline=parent) returned, or its directory",
        )
    content: dict[str, Any] = dump(mode="python")
    if "latency" in content and "candidate" not in content:
        # A single measurement: there is no parent to compare with, which the judge answers with an error.
        return {"candidate": content, "baseline": None}
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise GateError("There is no comparison", got=str(path), do="run the measure step first") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise GateError(f"{path.name} is not JSON", got=error, do="run the measure step again") from error
    if not isinstance(content, dict):
        raise GateError(f"{path.name} is not a comparison", got=type(content).__name__, do="measure again")
    return content


def _read_arrays(path: Path | str) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise GateError(
            "The per-example scores cannot be read", got=f"{path}: {error}", do="run the measure step again"
        ) from error


def _check_lengths(arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    lengths = {name: len(values) if values.ndim == 1 else -1 for name, values in arrays.items()}
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        raise GateError(
            "Per-example arrays must be one-dimensional and of one length",
            got=", ".join(f"{name}: {arrays[name].shape}" for name in sorted(arrays)),
            do="measure parent and candidate on the same examples",
        )
    ids = arrays.get("ids")
    if ids is not None and len(np.unique(ids)) != len(ids):
        raise GateError(
            "An example was counted twice", got="repeated ids", do="measure every test example once"
        )
    return arrays


def _floats(values: npt.NDArray[Any] | None) -> Floats | None:
    return None if values is None else values.astype(np.float64)
