"""ONNX: one graph with a dynamic batch, float as it is or quantized layers as explicit Q/DQ."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from lwplugin.data.batch import Inputs, tensors
from lwplugin.errors import ExportError, MissingExtraError
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.in_float import in_float
from lwplugin.export.onnx_layers import traced_from_source
from lwplugin.export.onnx_packed import computes_narrow
from lwplugin.export.onnx_quantized import SCHEMES, Scheme, describe, lower, mark, quantized_layers
from lwplugin.export.onnx_recurrent import INTEGER_LSTM
from lwplugin.export.parity import check
from lwplugin.export.program import KEEP_OUT, masks_as_given, with_free_batch
from lwplugin.export.source import OUTPUT, OneOutput, described, facts
from lwplugin.export.torch_errors import own_error, quiet, root_cause
from lwplugin.quantize.layers import QuantLayer

if TYPE_CHECKING:
    import onnx

    from lwplugin.data import Data, Task
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

_log = logging.getLogger(__name__)
FILE = "model.onnx"
_BLOCKS_OPSET = 21
_LIMIT_BYTES = 2**31 - 2**20


class Options(ExportOptions):
    """Options of `onnx`."""

    opset: int = Field(default=18, ge=17, le=23, description="ONNX operator set to write.")
    scheme: Literal["cpu", "tensorrt"] = Field(
        default="cpu", description="Layout of integers: u8 × s8 for CPUs, symmetric s8 × s8 for TensorRT."
    )
    weights: Literal["unpacked", "packed", "blocks"] = Field(
        default="unpacked",
        description="Weight-only layers: unpacked to float when the file is loaded; kept packed in memory by "
        "onnxruntime's operators for 4- and 8-bit groups (linear layers and embeddings), and LSTMs of int8 multiply "
        "whole numbers; or groups as 4- and 8-bit constants of operator set 21, for runtimes that read these.",
    )


@dataclass(frozen=True)
class Graph:
    """A model as ONNX with what it was made from; ``rounds`` where its answers depend on integer kernels."""

    proto: onnx.ModelProto
    module: nn.Module
    example: Inputs
    scheme: dict[str, Any]
    rounds: bool


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """Export, lower the quantized layers, normalise, write, compare in a fresh process."""
    graph = graph_of(light, data, options, progress)
    file = directory / FILE
    save(graph.proto, file)
    progress("export onnx", 2, 3)
    (opset,) = (entry.version for entry in graph.proto.opset_import if entry.domain in ("", "ai.onnx"))
    meta: dict[str, Any] = {"opset": opset}
    if options.parity and options.scheme == "cpu":
        meta["parity"] = check(
            file, graph.module, data.task, graph.example, options, runtime="onnxruntime", rounds=graph.rounds
        )
    progress("export onnx", 3, 3)
    return Exported(
        path=directory,
        format="onnx",
        file=file,
        digest=file_digest(file),
        inputs=described(graph.example),
        output=OUTPUT,
        scheme=graph.scheme,
        meta=meta,
    )


def graph_of(
    light: LightModel, data: Data, options: Options, progress: Progress, *, scheme: Scheme | None = None
) -> Graph:
    """The whole graph in memory: exported, quantized layers lowered, normalised, with its facts.

    ``scheme`` is the layout where it is not the one that the options name.
    """
    _need_packages()
    module = light.copy_module().eval().to("cpu")
    if options.scheme == "tensorrt":
        module = in_float(module)
    example = data.example(max(options.parity_examples, 2))
    layers = quantized_layers(module)
    layout = replace(
        scheme or SCHEMES[options.scheme],
        packed_kernels=options.weights == "packed",
        block_constants=options.weights == "blocks",
    )
    if not layout.dynamic_ranges:
        _round_to_known_ranges(layers)
    progress("export onnx", 0, 3)
    opset = max(options.opset, _BLOCKS_OPSET) if options.weights == "blocks" else options.opset
    proto = to_proto(mark(module), data.task, example, opset=opset)
    progress("export onnx", 1, 3)
    told: dict[str, Any] = {}
    if layers:
        proto = lower(proto, layers, layout)
        told = describe(layers, layout)
    normalise(proto, {**facts(light), **options.metadata})
    rounds = any(isinstance(layer, QuantLayer) or computes_narrow(layer) for layer in layers.values())
    if integer := sum(node.op_type == INTEGER_LSTM for node in proto.graph.node):
        rounds, told = True, {**told, "integer_lstms": integer}
    return Graph(proto, module, example, told, rounds)


def _round_to_known_ranges(layers: dict[str, Any]) -> None:
    """What the file computes is what it is compared with."""
    dynamic = [layer for layer in layers.values() if getattr(layer, "dynamic", False)]
    for layer in dynamic:
        layer.dynamic = False
    if dynamic:
        _log.warning(
            "%d layers were rounded for the range of the values at hand, and this format takes calibrated ones; "
            "quantized with activations: static they come closer to the model",
            len(dynamic),
        )


def to_proto(module: nn.Module, task: Task, example: Inputs, *, opset: int) -> onnx.ModelProto:
    """The model as an ONNX graph with a dynamic batch; ExportError with torch's reason where it cannot be."""
    named = tensors(example)
    wrapper = OneOutput(module, task, example).eval()
    batch = torch.export.Dim("batch")
    # Two examples: a batch of one would be taken as a constant.
    arguments = tuple(tensor[:2].contiguous() for tensor in named.values())
    options: dict[str, Any] = {
        "dynamo": True,
        "input_names": list(named),
        "output_names": [OUTPUT],
        "opset_version": opset,
        "external_data": False,
        "verbose": False,
    }
    try:
        with quiet(), torch.no_grad(), masks_as_given():
            shapes = (tuple({0: batch} for _ in named),)
            program = torch.onnx.export(wrapper, arguments, dynamic_shapes=shapes, **options)
            if program is not None and not _batch_is_free(program.model.graph):
                program = torch.onnx.export(
                    with_free_batch(traced_from_source(wrapper), arguments), **options
                )
    except Exception as error:
        if (own := own_error(error)) is not None:
            raise own from None
        cause = root_cause(error)
        unknown = "No ONNX function" in cause
        raise ExportError(
            "torch cannot export this model to ONNX",
            got=cause,
            do="compute it with other operators, or export format 'torch_export'" if unknown else KEEP_OUT,
        ) from error
    if program is None:
        raise ExportError("torch exported nothing", do="report the model's layer types")
    _name_apart(program.model.graph)
    return program.model_proto


def _batch_is_free(graph: Any) -> bool:
    return not any(isinstance(value.shape[0], int) for value in graph.inputs)


def _name_apart(graph: Any) -> None:
    """Values are called after their operators: one may have the name of an input, such as ``cat``."""
    taken = {value.name for value in graph.inputs}
    for node in graph.all_nodes():
        for value in node.outputs:
            while value.name in taken:
                value.name += "_computed"


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


def _need_packages() -> None:
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="onnx", why="Exporting to ONNX")
