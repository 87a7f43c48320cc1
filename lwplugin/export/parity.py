"""Proof that a written file is the model: load it in a fresh process, run real inputs, compare."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lwplugin.errors import ExportError

_WORKER = Path(__file__).with_name("parity_worker.py")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class RuntimeOutputs:
    """What the runtime answered, float32 [n, …]: with its own kernels, and simulated in float."""

    optimized: np.ndarray
    plain: np.ndarray


def run_fresh(file: Path, inputs: dict[str, np.ndarray]) -> RuntimeOutputs:
    """Load and run an ONNX file in a new process; ExportError with the runtime's own words where it fails."""
    with tempfile.TemporaryDirectory(prefix="lwplugin-parity-") as directory:
        stored, answered = Path(directory) / "inputs.npz", Path(directory) / "outputs.npz"
        np.savez(stored, **inputs)  # type: ignore[arg-type]
        # -P keeps the worker's own folder off the import path: its onnx.py must not stand in for onnx.
        command = [sys.executable, "-P", str(_WORKER), str(file.resolve()), str(stored), str(answered)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"{file.name} did not finish in a fresh process",
                got=f"{_TIMEOUT_S} s",
                do="export with fewer parity_examples",
            ) from error
        if ran.returncode != 0:
            last = ran.stderr.strip().splitlines()[-1:] or [f"exit code {ran.returncode}"]
            raise ExportError(
                f"{file.name} does not load and run in a fresh ONNX Runtime",
                got=last[0][:500],
                do="report the model's layer types, or export another format",
            )
        with np.load(answered, allow_pickle=False) as results:
            return RuntimeOutputs(optimized=results["optimized"], plain=results["plain"])


def max_abs_error(reference: np.ndarray, got: np.ndarray) -> float:
    """Largest difference of any output value; infinite where shapes differ or a value is not finite."""
    if reference.shape != got.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    worst = float(np.abs(reference.astype(np.float64) - got.astype(np.float64)).max())
    return worst if np.isfinite(worst) else float("inf")


def output_sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """Signal to noise of the outputs in decibels, at most 200; minus infinity where shapes differ."""
    if reference.shape != got.shape:
        return float("-inf")
    wanted = reference.astype(np.float64)
    noise = float(np.square(wanted - got.astype(np.float64)).sum())
    signal = float(np.square(wanted).sum())
    if noise == 0.0:
        return 200.0
    if not np.isfinite(noise) or signal == 0.0:
        return float("-inf")
    return min(10.0 * float(np.log10(signal / noise)), 200.0)
