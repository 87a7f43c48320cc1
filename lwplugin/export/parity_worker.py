"""Runs one ONNX file on saved inputs in a process of its own: ``parity_worker.py FILE INPUTS OUTPUTS``.

INPUTS is an npz of the file's inputs by name; OUTPUTS receives ``optimized`` (the kernels a user gets) and
``plain`` (no graph optimization: Q/DQ files are simulated in float).
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(file: str, inputs: str, outputs: str) -> None:
    """Run both ways on one thread and save the first output of each."""
    with np.load(inputs, allow_pickle=False) as stored:
        feed = dict(stored)
    levels = {
        "optimized": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "plain": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    results = {}
    for name, level in levels.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        results[name] = session.run(None, feed)[0]
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
