"""What a run came to for one target, read from what its steps wrote: plain JSON values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lwplugin.pipelines.result import RunResult


def summarise(result: RunResult, target: str) -> dict[str, Any]:
    """Verdict, numbers of parent and light model, report and registration; None for what was not made."""
    gate, report = result.of("gate", target), result.of("report", target)
    registered = result.of("register", target)
    status = result.verdicts[target]
    verdict = _read(gate.path if gate else None, "verdict.json")
    judged = verdict is not None and verdict["status"] == status  # else a step failed, perhaps after the gate
    registration = _read(registered.path if registered else None, "registration.json")
    return {
        "verdict": status,
        "reason": verdict["reason"] if verdict and judged else _first_error(result, target),
        "checks": verdict["checks"] if verdict else [],
        "numbers": _numbers(result, target),
        "warnings": _warnings(result, target),
        "report": str(report.path) if report and report.path else None,
        "registration": registration,
    }


def _numbers(result: RunResult, target: str) -> dict[str, Any] | None:
    """{"parent": {"accuracy": …, "p50_ms": …}, "light": {…}, "speedup": …}."""
    comparison = _comparison(result, target)
    if comparison is None:
        return None
    exports = {run.id: run.path for run in result.steps if run.step == "export"}
    measure = next(step for step in result.plan.steps if (step.step, step.target) == ("measure", target))
    numbers: dict[str, Any] = {"speedup": comparison["speedup"], "noise": comparison["noise_reason"]}
    for name, side in (("parent", "baseline"), ("light", "candidate")):
        found = comparison[side]
        cost = _read(exports.get(measure.inputs[side]), "cost.json") or {}
        numbers[name] = {
            **found["metrics"],
            "size_bytes": found["size_bytes"],
            "macs": cost.get("macs"),
            "params": cost.get("params"),
            "p50_ms": found["latency"]["p50_ms"],
            "p95_ms": found["latency"]["p95_ms"],
            "peak_memory_bytes": found["peak_memory_bytes"],
        }
    return numbers


def _warnings(result: RunResult, target: str) -> list[str]:
    comparison = _comparison(result, target) or {}
    sides = [comparison.get(side) or {} for side in ("baseline", "candidate")]
    return list(dict.fromkeys(warning for side in sides for warning in side.get("warnings", ())))


def _comparison(result: RunResult, target: str) -> dict[str, Any] | None:
    measured = result.of("measure", target)
    return _read(measured.path if measured else None, "comparison.json")


def _first_error(result: RunResult, target: str) -> str | None:
    runs = [run for run in result.steps if run.target in (target, None) and run.status == "failed"]
    return f"{runs[0].id}: {runs[0].why}" if runs else None


def _read(directory: Path | None, name: str) -> dict[str, Any] | None:
    if directory is None or not (directory / name).is_file():
        return None
    document: dict[str, Any] = json.loads((directory / name).read_text(encoding="utf-8"))
    return document
