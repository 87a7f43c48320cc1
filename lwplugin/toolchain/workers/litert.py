"""``litert.py JOB ANSWER``: a torch.export program → one TFLite file. Runs in the toolchain's own Python.

JOB: ``program`` and ``output`` (paths), ``inputs`` (names, in order), ``result`` (the output's name), ``integer``
(the program has Q/DQ operators), ``dynamic_layers`` (npz with ``integers`` [out, in] and ``scale`` [out] of layers
whose float input is rounded when they run), ``half`` (tables are stored in 16 bits), ``dynamic`` (free batch),
``facts`` (text by key, written into the file). ANSWER: ``inputs`` as the file has them, or ``refused``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import flatbuffers
import litert_torch
import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from ai_edge_litert import schema_py_generated as schema
from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
from litert_torch.quantize.quant_config import QuantConfig

FACTS = "lwplugin.json"
_SMALLEST_TABLE = 64


def convert(job: dict[str, Any]) -> bytes:
    """The bytes that the converter writes."""
    program = torch.export.load(job["program"])
    arguments = program.example_inputs[0]
    options: dict[str, Any] = {}
    if job["integer"]:
        # The scales stand in the program; the quantizer only names the conversion of static ranges.
        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        options["quant_config"] = QuantConfig(pt2e_quantizer=quantizer)
    if job["dynamic"]:
        batch = torch.export.Dim("batch")
        options["dynamic_shapes"] = tuple({0: batch} for _ in arguments)
    module = program.module(check_guards=False)
    model = litert_torch.convert(module, tuple(arguments), **options)
    return model.model_content()


def finish(content: bytes, job: dict[str, Any]) -> tuple[bytes, list[dict[str, Any]]]:
    """Name inputs and output as the job does, make both float, store halves, add the facts."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    _float_borders(model, graph, signature)
    inputs = []
    for entry in signature.inputs:
        entry.name = job["inputs"][int(entry.name.decode().rpartition("_")[2])]
        tensor = graph.tensors[entry.tensorIndex]
        tensor.name = entry.name
        inputs.append({"name": entry.name, "dtype": _dtype(tensor.type), "shape": _shape(tensor)})
    (result,) = signature.outputs
    result.name = graph.tensors[result.tensorIndex].name = job["result"]
    _round_when_run(model, graph, job["dynamic_layers"])
    if job["half"]:
        _store_halves(model, graph)
    _add_facts(model, job["facts"])
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), sorted(inputs, key=lambda entry: job["inputs"].index(entry["name"]))


def _dtype(kind: int) -> str:
    names = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
    return names[kind]


def _shape(tensor: Any) -> list[Any]:
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return [int(size) if size > 0 else "batch" if axis == 0 else "any" for axis, size in enumerate(shape)]


def _float_borders(model: Any, graph: Any, signature: Any) -> None:
    """The converter strips the outer pair and leaves int8 inputs and outputs: callers have and want floats."""
    for entry in signature.inputs:
        inner = entry.tensorIndex
        if graph.tensors[inner].type == schema.TensorType.INT8:
            outer = entry.tensorIndex = _float_like(graph, inner)
            graph.inputs = [outer if index == inner else index for index in graph.inputs]
            graph.operators.insert(0, _operator(model, "QUANTIZE", outer, inner))
    for entry in signature.outputs:
        inner = entry.tensorIndex
        if graph.tensors[inner].type == schema.TensorType.INT8:
            outer = entry.tensorIndex = _float_like(graph, inner)
            graph.outputs = [outer if index == inner else index for index in graph.outputs]
            graph.operators.append(_operator(model, "DEQUANTIZE", inner, outer))


def _float_like(graph: Any, index: int) -> int:
    """A float tensor of the same shape; its index."""
    model, made = graph.tensors[index], schema.TensorT()
    made.type, made.shape, made.shapeSignature = schema.TensorType.FLOAT32, model.shape, model.shapeSignature
    made.buffer, made.name = 0, b"%d_float" % index
    model.name = b"%d_int8" % index
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _operator(model: Any, kind: str, source: int, target: int) -> Any:
    code = getattr(schema.BuiltinOperator, kind)
    known = [each.builtinCode for each in model.operatorCodes]
    if code not in known:
        added = schema.OperatorCodeT()
        added.builtinCode = added.deprecatedBuiltinCode = code
        added.version = 3
        model.operatorCodes.append(added)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = known.index(code)
    operator.inputs, operator.outputs = [source], [target]
    return operator


def _round_when_run(model: Any, graph: Any, file: str) -> None:
    """Float products with these very weights get the integers instead: their kernel rounds the input itself.

    Raises ValueError where the converter has changed the weights of one.
    """
    with np.load(file, allow_pickle=False) as stored:
        layers = [(stored[f"integers{place}"], stored[f"scale{place}"]) for place in range(len(stored) // 2)]
    kinds = [entry.builtinCode for entry in model.operatorCodes]
    products = [
        each for each in graph.operators if kinds[each.opcodeIndex] == schema.BuiltinOperator.FULLY_CONNECTED
    ]
    floats = {each.inputs[1]: _float_constant(model, graph.tensors[each.inputs[1]]) for each in products}
    for integers, scale in layers:
        numbers = integers.astype(np.float32) * scale[:, None]
        places = [
            place for place, held in floats.items() if held is not None and np.array_equal(held, numbers)
        ]
        if not places:
            raise ValueError(f"no product has the weights {list(integers.shape)} of a dynamic layer any more")
        for place in places:
            tensor, buffer, grid = graph.tensors[place], schema.BufferT(), schema.QuantizationParametersT()
            grid.scale, grid.zeroPoint = scale.astype(np.float32), np.zeros(len(scale), np.int64)
            tensor.type, tensor.quantization = schema.TensorType.INT8, grid
            tensor.buffer = len(model.buffers)
            buffer.data = integers.astype(np.int8).view(np.uint8).reshape(-1)
            model.buffers.append(buffer)
            for each in products:
                if each.inputs[1] == place:
                    each.builtinOptions.asymmetricQuantizeInputs = True
    _drop_unread(model)


def _float_constant(model: Any, tensor: Any) -> Any:
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(tensor.shape)


def _drop_unread(model: Any) -> None:
    read = {tensor.buffer for each in model.subgraphs for tensor in each.tensors}
    read |= {entry.buffer for entry in model.metadata or []}
    for place, held in enumerate(model.buffers):
        if place not in read:
            held.data = None


def _store_halves(model: Any, graph: Any) -> None:
    """Float tables become 16-bit ones with a DEQUANTIZE before their readers."""
    added = []
    for place in range(len(graph.tensors)):
        tensor = graph.tensors[place]
        data = model.buffers[tensor.buffer].data
        if tensor.type != schema.TensorType.FLOAT32 or data is None:
            continue
        numbers = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32)
        halves = numbers.astype(np.float16)
        if len(numbers) < _SMALLEST_TABLE or not np.isfinite(halves).all():
            continue
        stored, buffer = schema.TensorT(), schema.BufferT()
        stored.type, stored.shape, stored.name = schema.TensorType.FLOAT16, tensor.shape, b"%d_half" % place
        stored.buffer, tensor.buffer = len(model.buffers), 0
        buffer.data = halves.view(np.uint8)
        model.buffers.append(buffer)
        graph.tensors.append(stored)
        added.append(_operator(model, "DEQUANTIZE", len(graph.tensors) - 1, place))
    graph.operators = added + list(graph.operators)
    _drop_unread(model)


def _add_facts(model: Any, facts: dict[str, str]) -> None:
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    entry.name, entry.buffer = FACTS, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def main(described: str, answered: str) -> None:
    """One job."""
    job = json.loads(Path(described).read_text(encoding="utf-8"))
    began = time.perf_counter()
    try:
        content = convert(job)
        seconds = time.perf_counter() - began
        content, inputs = finish(content, job)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        answer: dict[str, Any] = {"refused": f"{type(error).__name__}: {' '.join(lines)[:600]}"}
    else:
        Path(job["output"]).write_bytes(content)
        answer = {"inputs": inputs, "convert_s": seconds}
    Path(answered).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
