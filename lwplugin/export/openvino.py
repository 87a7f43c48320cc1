"""OpenVINO: the IR (``model.xml``, ``model.bin``) of our own ONNX graph, float or with the bundle's integers."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lwplugin.errors import ExportError, MissingExtraError
from lwplugin.export import onnx as source
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.onnx_quantized import SCHEMES
from lwplugin.export.parity import check
from lwplugin.export.source import OUTPUT, described, facts
from lwplugin.export.torch_errors import root_cause
from lwplugin.measure.layer_names import layers_in
from lwplugin.quantize.encodings import Encoding, Groups, Half
from lwplugin.quantize.packed import PackedLayer

if TYPE_CHECKING:
    import openvino

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE, WEIGHTS = "model.xml", "model.bin"
# Its CPU plugin folds a gain into the rounding of a two-dimensional tensor and then rounds wrongly (2026.4).
_LAYOUT = replace(
    SCHEMES["cpu"],
    integer_bias=False,
    least_inputs_3d=1,
    adds_into_products=True,
    keeps_gains_apart=True,
    products_without_zero_points=True,
    plain_roundings=True,
    width_multiple=64,
    dynamic_ranges=False,
)
_MADE_UP = re.compile(r"([A-Z][A-Za-z]*)_\d+")


class Options(ExportOptions):
    """Options of `openvino`."""

    integer_scores: bool = Field(
        default=True,
        description="Multiply attention's queries and keys in 8 bits where layers make them, in the ranges calibrated "
        "for these layers; otherwise in float.",
    )


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """ONNX in memory, converted, saved, compared in a fresh OpenVINO."""
    _need_package()
    layout = replace(_LAYOUT, rounds_scores=options.integer_scores)
    graph = source.graph_of(light, data, _as_onnx(light, options), progress, scheme=layout)
    file, weights = directory / FILE, directory / WEIGHTS
    _convert(graph, {**facts(light), **options.metadata}, file, as_written=_folding_widens(light))
    progress("export openvino", 2, 3)
    meta: dict[str, Any] = {}
    if options.parity:
        meta["parity"] = check(
            file, graph.module, data.task, graph.example, options, runtime="openvino", rounds=graph.rounds
        )
    progress("export openvino", 3, 3)
    return Exported(
        path=directory,
        format="openvino",
        file=file,
        beside=(weights,),
        digest=file_digest(file, weights),
        inputs=described(graph.example),
        output=OUTPUT,
        scheme=graph.scheme,
        meta=meta,
    )


def _as_onnx(light: LightModel, options: Options) -> source.Options:
    """Groups of fewer than 8 bits go as constants in blocks: unpacking by shifts is what its reader gets wrong."""
    narrow = any(isinstance(encoding, Groups) and encoding.width < 8 for encoding in _encodings(light))
    shared = options.model_dump(include=set(ExportOptions.model_fields))
    return source.Options(**shared, weights="blocks" if narrow else "unpacked")


def _encodings(light: LightModel) -> list[Encoding]:
    return [layer.encoding for layer in light.module.modules() if isinstance(layer, PackedLayer)]


def _folding_widens(light: LightModel) -> bool:
    """Whether converting would store 16-bit weights in 32: it folds batch norms into them. Compiling does that too,
    after reading the file."""
    return any(isinstance(encoding, Half) for encoding in _encodings(light))


def _convert(graph: source.Graph, told: dict[str, str], file: Path, *, as_written: bool) -> None:
    """Write the pair of files, ``as_written`` or converted; ExportError with OpenVINO's reason where it cannot read."""
    import openvino

    _refuse_packed(graph)
    with tempfile.TemporaryDirectory(prefix="lwplugin-openvino-") as scratch:
        onnx_file = Path(scratch) / source.FILE
        source.save(graph.proto, onnx_file)
        try:
            if as_written:
                model = openvino.Core().read_model(str(onnx_file))
            else:
                with _root_logger_kept():
                    model = openvino.convert_model(str(onnx_file), share_weights=False)
        except Exception as error:
            raise ExportError(
                "OpenVINO cannot convert this model",
                got=root_cause(error),
                do="export format 'onnx' instead, or leave the layer it names in float",
            ) from error
    _name_by_place(model)
    for key in sorted(told):
        model.set_rt_info(told[key], ["lwplugin", key.removeprefix("lwplugin.")])
    there = {node.get_friendly_name() for node in model.get_ordered_ops()}
    layers = {name: layer for name, layer in layers_in(graph.proto).items() if name in there}
    model.set_rt_info(json.dumps(layers, separators=(",", ":")), ["lwplugin", "layers"])
    openvino.save_model(model, str(file), compress_to_fp16=False)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """A conversion that fails leaves the root logger at ERROR, and everyone's warnings would be lost."""
    root = logging.root
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers


def _name_by_place(model: openvino.Model) -> None:
    """OpenVINO counts up its names over the process: the same model must give the same bytes."""
    for place, node in enumerate(model.get_ordered_ops()):
        made_up = _MADE_UP.fullmatch(node.get_friendly_name())
        if made_up:
            node.set_friendly_name(f"{made_up[1]}_{place}")


def _refuse_packed(graph: source.Graph) -> None:
    """Some packings are undone by shifts, which OpenVINO's reader of ONNX gets wrong (2026.4)."""
    operators = {node.op_type for part in (graph.proto.graph, *graph.proto.functions) for node in part.node}
    if "BitShift" in operators:
        raise ExportError(
            "OpenVINO does not read this packing from ONNX",
            got="packed weights (BitShift), which it unpacks to other numbers",
            do="quantize with method weight_only or int8, or export format 'onnx'",
        )


def _need_package() -> None:
    from importlib.util import find_spec

    if find_spec("openvino") is None:
        raise MissingExtraError("openvino", extra="openvino", why="Exporting to OpenVINO")
