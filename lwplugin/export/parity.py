"""Proof that a written file is the model: load it in a fresh process, run real inputs, compare."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lwplugin.errors import ExportError
from lwplugin.measure.runtimes.base import command

if TYPE_CHECKING:
    from torch import nn

    from lwplugin.data import Task
    from lwplugin.data.batch import Inputs
    from lwplugin.export.base import ExportOptions

_WORKER = Path(__file__).with_name("parity_worker.py")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class RuntimeOutputs:
    """What the runtime answered, float32 [n, …]: with its own kernels, and simulated in float."""

    optimized: np.ndarray
    plain: np.ndarray


def check(
    file: Path,
    module: nn.Module,
    task: Task,
    example: Inputs,
    options: ExportOptions,
    *,
    runtime: str,
    rounds: bool,
    device: str = "cpu",
    batch: int | None = None,
) -> dict[str, float]:
    """How far the file lies from the module on the example, in ``runtime`` in a fresh process.

    ``rounds``: the answers depend on integer kernels, so noise is judged instead of the largest error; ``batch``:
    the only number of examples that the file takes at once.
    Raises ExportError where the file does not run or does not answer as the model does.
    """
    import torch

    from lwplugin.data.batch import call, tensors
    from lwplugin.export.source import OUTPUT

    with torch.no_grad():
        wanted = task.outputs(call(module, example)).float().numpy()
    feed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors(example).items()}
    got = run_fresh(file, feed, runtime=runtime, output=OUTPUT, both=rounds, device=device, batch=batch)
    if rounds:
        return _integer_parity(file, wanted, got, options.int8_sqnr_db)
    return _float_parity(file, wanted, got.optimized, options.float_tolerance)


def _float_parity(file: Path, wanted: np.ndarray, got: np.ndarray, tolerance: float) -> dict[str, float]:
    error = max_abs_error(wanted, got)
    limit = tolerance * max(float(np.abs(wanted).max()), 1.0)
    if not error <= limit:
        raise ExportError(
            f"{file.name} does not answer as the model does",
            got=f"largest error {error:.3g} on {len(wanted)} examples, {limit:.3g} allowed",
            do="raise float_tolerance if this is acceptable, else report the model",
        )
    return {"max_abs_error": error, "examples": float(len(wanted))}


def _integer_parity(file: Path, wanted: np.ndarray, got: RuntimeOutputs, least_db: float) -> dict[str, float]:
    found = {
        "max_abs_error": max_abs_error(wanted, got.optimized),
        "sqnr_db": output_sqnr_db(wanted, got.optimized),
        "simulation_sqnr_db": output_sqnr_db(wanted, got.plain),
        "kernel_sqnr_db": output_sqnr_db(got.plain, got.optimized),
        "examples": float(len(wanted)),
    }
    if not found["sqnr_db"] >= least_db:
        raise ExportError(
            f"{file.name} does not answer as the quantized model does",
            got=f"{found['sqnr_db']:.1f} dB in the kernels, {found['simulation_sqnr_db']:.1f} dB simulated, "
            f"{least_db:.1f} dB needed",
            do="quantize with reduce_range=true where only the kernels are bad, else with another calibrator",
        )
    return found


def run_fresh(
    file: Path,
    inputs: dict[str, np.ndarray],
    *,
    runtime: str,
    output: str,
    both: bool,
    device: str = "cpu",
    batch: int | None = None,
) -> RuntimeOutputs:
    """Load and run a file in a new process; ExportError with the runtime's own words where it fails.

    ``runtime`` is one of `lwplugin.measure.runtimes`; without ``both`` the graph is not simulated: ``plain``
    is what the kernels answered.
    """
    with tempfile.TemporaryDirectory(prefix="lwplugin-parity-") as directory:
        stored, answered = Path(directory) / "inputs.npz", Path(directory) / "outputs.npz"
        np.savez(stored, **inputs)  # type: ignore[arg-type]
        ways = "both" if both else "kernels"
        how = (runtime, device, output, ways, str(batch or 0))
        worker = command(runtime, str(_WORKER), *how, str(file.resolve()), str(stored), str(answered))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            ran = subprocess.run(
                worker, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment, check=False
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
                f"{file.name} does not load and run in a fresh {runtime}",
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
