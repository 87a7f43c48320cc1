"""Names, types and shapes of what an exported file takes and gives."""

from __future__ import annotations

from dataclasses import dataclass

from lwplugin.errors import ExportError
from lwplugin.export.base import Exported


@dataclass(frozen=True)
class Tensor:
    """``dtype`` is numpy's name; ``shape`` has -1 where the size is free, batch first."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def inputs_of(exported: Exported) -> list[Tensor]:
    """From the export's own description."""
    return [
        Tensor(name, str(spec["dtype"]).removeprefix("torch."), _sizes(spec["shape"]))
        for name, spec in exported.inputs.items()
    ]


def output_of(exported: Exported) -> Tensor:
    """From the file itself. Raises ExportError for a format whose files do not tell."""
    if exported.format == "onnx":
        return _onnx(exported)
    if exported.format == "openvino":
        return _openvino(exported)
    raise ExportError(
        f"A file of format '{exported.format}' does not say what it gives",
        do="deploy an onnx or openvino export",
    )


def _sizes(shape: list[object]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else -1 for size in shape)


def _onnx(exported: Exported) -> Tensor:
    import onnx

    graph = onnx.load(str(exported.file), load_external_data=False).graph
    value = next(value for value in graph.output if value.name == exported.output)
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    shape = [size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim]
    return Tensor(value.name, dtype, _sizes(shape))


def _openvino(exported: Exported) -> Tensor:
    import openvino

    port = openvino.Core().read_model(str(exported.file)).output(exported.output)
    shape = [size.get_length() if size.is_static else None for size in port.partial_shape]
    return Tensor(exported.output, port.element_type.to_dtype().name, _sizes(shape))
