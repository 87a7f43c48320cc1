"""How far two sets of outputs lie apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lwplugin.errors import MeasureError
from lwplugin.measure.result import Parity
from lwplugin.measure.wire import Array


def compare(outputs: Array, reference: Array, *, what: str) -> Parity:
    """Maximal absolute error and SQNR of ``outputs`` [n, …] beside ``reference`` [n, …].

    Raises MeasureError where the shapes differ.
    """
    if outputs.shape != reference.shape:
        raise MeasureError(
            f"Outputs and {what} have different shapes",
            got=f"{outputs.shape} and {reference.shape}",
            do="compare files of the same task",
        )
    signal = np.asarray(reference, np.float64)
    error = np.asarray(outputs, np.float64) - signal
    return Parity(
        reference=what,
        max_abs_error=float(np.abs(error).max(initial=0.0)),
        sqnr_db=sqnr_db(float(np.square(signal).sum()), float(np.square(error).sum())),
        n=len(outputs),
    )


def sqnr_db(signal: float, error: float) -> float | None:
    """10 log10(signal / error) of two powers; None where there is no error, -300 where there is no signal."""
    if error == 0:
        return None
    return 10 * math.log10(max(signal, 1e-30) / error)


def torch_outputs(module: Any, data: Any, count: int) -> Array:
    """What a module answers for the first ``count`` test examples in evaluation mode; its mode is kept."""
    import torch

    from lwplugin.data.batch import call, to_device

    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            outputs = [
                data.task.outputs(call(module, to_device(batch.inputs, device))).float().cpu().numpy()
                for batch in data.test.head(count).batches(64)
            ]
    finally:
        module.train(was_training)
    return np.concatenate(outputs)
