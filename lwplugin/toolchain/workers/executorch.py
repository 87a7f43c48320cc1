"""``executorch.py JOB ANSWER``: a torch.export program → one ExecuTorch file for XNNPACK, in the toolchain's Python.

JOB: ``program`` and ``output`` (paths), ``facts`` (text, which the file's method ``lwplugin_facts`` answers). ANSWER:
``delegated`` (parts that XNNPACK runs), ``portable`` (operators it leaves to plain kernels), or ``refused``.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower

FACTS = "lwplugin_facts"


def keep_half_filters() -> None:
    """XNNPACK reads the filters of 16-bit convolutions in 16 bits; ExecuTorch 1.5's converter widens them first."""
    define = NodeVisitor.define_tensor

    def narrow(self: Any, tensor: Any, *arguments: Any, **options: Any) -> None:
        value = tensor.meta.get("val")
        if getattr(value, "dtype", None) is torch.float16 and value.ndim == 4:
            options["force_fp32"] = False
        define(self, tensor, *arguments, **options)

    NodeVisitor.define_tensor = narrow


def convert(job: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The file's bytes and what runs where."""
    program = torch.export.load(job["program"])
    keep_half_filters()
    edge = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={FACTS: job["facts"]}
    )
    called = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    names = [getattr(node.target, "__name__", str(node.target)) for node in called]
    portable = Counter(name for name in names if name not in ("executorch_call_delegate", "getitem"))
    told = {"delegated": names.count("executorch_call_delegate"), "portable": dict(sorted(portable.items()))}
    return bytes(edge.to_executorch().buffer), told


def main(described: str, answered: str) -> None:
    """One job."""
    job = json.loads(Path(described).read_text(encoding="utf-8"))
    began = time.perf_counter()
    try:
        content, answer = convert(job)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        answer = {"refused": f"{type(error).__name__}: {' '.join(lines)[:600]}"}
    else:
        Path(job["output"]).write_bytes(content)
        answer["convert_s"] = time.perf_counter() - began
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
