"""ONNX: one graph with a dynamic batch, float as it is or quantized layers as explicit Q/DQ."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lwplugin.data.batch import Inputs, call, tensors
from lwplugin.errors import ExportError, MissingExtraError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.onnx_packed import computes_narrow
from lwplugin.export.onnx_quantized import SCHEMES, describe, lower, mark, quantized_layers
from lwplugin.export.parity import max_abs_error, output_sqnr_db, run_fresh
from lwplugin.quantize.layers import QuantLayer

if TYPE_CHECKING:
    import onnx

    from lwplugin.data import Data, Task
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.onnx"
OUTPUT = "output"
_LIMIT_BYTES = 2**31 - 2**20


class Options(ExportOptions):
    """Options of `onnx`."""

    opset: int = Field(default=18, ge=17, le=23, description="ONNX operator set to write.")
    scheme: Literal["cpu", "tensorrt"] = Field(
        default="cpu", description="Layout of integers: u8 × s8 for CPUs, symmetric s8 × s8 for TensorRT."
    )
    weights: Literal["unpacked", "packed"] = Field(
        default="unpacked",
        description="Weight-only layers: unpacked to float when the file is loaded, or kept packed in memory "
        "by operators that read 4- and 8-bit groups (linear layers and embeddings).",
    )
    float_tolerance: float = Field(
        default=1e-4, gt=0, description="Largest error of a float file, relative to the largest output."
    )
    int8_sqnr_db: float = Field(
        default=15.0, description="Least signal to noise between an int8 file in its kernels and the model."
    )


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Export, lower the quantized layers, normalise, write, compare in a fresh process."""
    _need_packages()
    module = light.copy_module().eval().to("cpu")
    example = data.example(max(options.parity_examples, 2))
    layers = quantized_layers(module)
    progress("export onnx", 0, 3)
    proto = to_proto(mark(module), data.task, example, opset=options.opset)
    progress("export onnx", 1, 3)
    scheme: dict[str, Any] = {}
    if layers:
        layout = replace(SCHEMES[options.scheme], packed_kernels=options.weights == "packed")
        proto = lower(proto, layers, layout)
        scheme = describe(layers, layout)
    normalise(proto, {**_facts(light), **options.metadata})
    file = directory / FILE
    save(proto, file)
    progress("export onnx", 2, 3)
    meta: dict[str, Any] = {"opset": options.opset}
    rounds = any(isinstance(layer, QuantLayer) or computes_narrow(layer) for layer in layers.values())
    if options.parity and options.scheme == "cpu":
        meta["parity"] = _compare(module, data.task, example, file, options, quantized=rounds)
    progress("export onnx", 3, 3)
    return Exported(
        path=directory,
        format="onnx",
        file=file,
        digest=file_digest(file),
        inputs={
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": ["batch", *tensor.shape[1:]]}
            for name, tensor in tensors(example).items()
        },
        output=OUTPUT,
        scheme=scheme,
        meta=meta,
    )


class _OneOutput(nn.Module):
    """The module with positional inputs in a fixed order and the task's one output tensor."""

    def __init__(self, module: nn.Module, task: Task, example: Inputs) -> None:
        super().__init__()
        self.module = module
        self._task = task
        self._keys = tuple(example) if isinstance(example, dict) else None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Positional tensors → the output the task judges."""
        if self._keys is not None:
            return self._task.outputs(self.module(**dict(zip(self._keys, inputs, strict=True))))
        return self._task.outputs(self.module(*inputs))


def to_proto(module: nn.Module, task: Task, example: Inputs, *, opset: int) -> onnx.ModelProto:
    """The model as an ONNX graph with a dynamic batch; ExportError with torch's reason where it cannot be."""
    named = tensors(example)
    wrapper = _OneOutput(module, task, example).eval()
    batch = torch.export.Dim("batch")
    # Two examples: a batch of one would be taken as a constant.
    arguments = tuple(tensor[:2].contiguous() for tensor in named.values())
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                wrapper,
                arguments,
                dynamo=True,
                input_names=list(named),
                output_names=[OUTPUT],
                dynamic_shapes=(tuple({0: batch} for _ in named),),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            "torch cannot export this model to ONNX",
            got=_root_cause(error),
            do="keep data-dependent control flow and shapes out of forward, and let the batch size vary",
        ) from error
    if program is None:
        raise ExportError("torch exported nothing", do="report the model's layer types")
    return program.model_proto


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def normalise(proto: onnx.ModelProto, facts: dict[str, str]) -> None:
    """Keep only what decides the answers, so that the same model gives the same bytes; then add ``facts``."""
    from lwplugin import __name__ as producer

    proto.producer_name = producer
    proto.producer_version = ""
    proto.doc_string = ""
    del proto.metadata_props[:]
    graph = proto.graph
    graph.doc_string = ""
    graph.name = "model"
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for key in sorted(facts):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, facts[key]


def save(proto: onnx.ModelProto, file: Path) -> None:
    """Check and write in one piece; weights go to a file beside it from 2 GB on."""
    import onnx

    temporary = file.with_name(file.name + ".part")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise ExportError(
            "The exported graph is not valid ONNX", got=str(error).splitlines()[0], do="report the model"
        ) from error
    if proto.ByteSize() > _LIMIT_BYTES:
        raise ExportError(
            "The graph is larger than one ONNX file can be",
            got=f"{proto.ByteSize()} bytes",
            do="quantize or prune it below 2 GB first",
        )
    temporary.write_bytes(proto.SerializeToString(deterministic=True))
    temporary.replace(file)


@torch.no_grad()
def _compare(
    module: nn.Module, task: Task, example: Inputs, file: Path, options: Options, *, quantized: bool
) -> dict[str, float]:
    wanted = task.outputs(call(module, example)).float().numpy()
    feed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors(example).items()}
    got = run_fresh(file, feed)
    error = max_abs_error(wanted, got.optimized)
    if not quantized:
        limit = options.float_tolerance * max(float(np.abs(wanted).max()), 1.0)
        if not error <= limit:
            raise ExportError(
                f"{file.name} does not answer as the model does",
                got=f"largest error {error:.3g} on {len(wanted)} examples, {limit:.3g} allowed",
                do="raise float_tolerance if this is acceptable, else report the model",
            )
        return {"max_abs_error": error, "examples": float(len(wanted))}
    found = {
        "max_abs_error": error,
        "sqnr_db": output_sqnr_db(wanted, got.optimized),
        "simulation_sqnr_db": output_sqnr_db(wanted, got.plain),
        "kernel_sqnr_db": output_sqnr_db(got.plain, got.optimized),
        "examples": float(len(wanted)),
    }
    if not found["sqnr_db"] >= options.int8_sqnr_db:
        raise ExportError(
            f"{file.name} does not answer as the quantized model does",
            got=f"{found['sqnr_db']:.1f} dB in the kernels, {found['simulation_sqnr_db']:.1f} dB simulated, "
            f"{options.int8_sqnr_db:.1f} dB needed",
            do="quantize with reduce_range=true where only the kernels are bad, else with another calibrator",
        )
    return found


def _facts(light: LightModel) -> dict[str, str]:
    from importlib.metadata import version

    facts = {"lwplugin.version": version("lwplugin")}
    if light.source is not None:
        facts["lwplugin.source"] = light.source.uri
        facts["lwplugin.source_digest"] = light.source.digest
    if light.task:
        facts["lwplugin.task"] = json.dumps(light.task, sort_keys=True)
    return facts


def _need_packages() -> None:
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="onnx", why="Exporting to ONNX")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
