"""TensorRT 10 and 11, and TensorRT-RTX: an engine for one kind of GPU, built from our ONNX, which stays beside it.

Networks are strongly typed: precision is what the ONNX says (float32, float16, or explicit symmetric Q/DQ), and the
builder chooses kernels, not types. An engine belongs to its library's version and to compute capabilities; both are
written down, and the runtime refuses an engine of another kind. Where no GPU can run it, it is built and *not run*.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lwplugin.errors import ExportError
from lwplugin.export import onnx as source
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.parity import check
from lwplugin.export.source import OUTPUT, described, facts
from lwplugin.export.tensorrt_engine import Library, build, capabilities_of, driver_version, find_library

if TYPE_CHECKING:
    import onnx

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.engine"


class Options(ExportOptions):
    """Options of `tensorrt`."""

    library: Literal["auto", "tensorrt", "tensorrt_rtx"] = Field(
        "auto",
        description="tensorrt for data-centre and embedded GPUs, tensorrt_rtx for RTX ones; auto: what is here.",
    )
    precision: Literal["float", "half"] = Field(
        "float",
        description="Type of what is not quantized: float32, or float16 with float32 inputs and outputs.",
    )
    min_batch: int = Field(1, ge=1, description="Smallest batch the engine takes.")
    opt_batch: int = Field(1, ge=1, description="Batch the kernels are chosen for.")
    max_batch: int = Field(64, ge=1, description="Largest batch the engine takes.")
    workspace_bytes: int | None = Field(
        None, ge=0, description="Most scratch memory of the kernels; default: the library's."
    )
    level: int | None = Field(
        None, ge=0, le=5, description="How long the builder searches for kernels; default: the library's."
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        "none", description="GPUs other than this one on which the engine must run, at some cost in speed."
    )
    version_compatible: bool = Field(
        False, description="The engine also runs in later minor versions of the library."
    )
    timing_cache: Path | None = Field(
        None, description="File with kernel timings, read and added to: a second build takes a fraction."
    )
    compute_capabilities: tuple[str, ...] = Field(
        (), description="tensorrt_rtx: GPUs to build for, such as 8.9; default: this machine's, else 8.9."
    )
    float_tolerance: float = Field(
        default=5e-3, gt=0, description="Largest error of a float file, relative to the largest output."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Options:
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError("min_batch ≤ opt_batch ≤ max_batch must hold")
        return self


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """ONNX, engine, and, where a GPU can run it, the comparison in a fresh process."""
    library = find_library(options.library)
    graph = source.graph_of(light, data, _onnx_options(options), progress)
    proto = _half(graph) if options.precision == "half" else graph.proto
    onnx_file, file = directory / source.FILE, directory / FILE
    source.save(proto, onnx_file)
    capabilities = capabilities_of(library, options)
    file.write_bytes(build(library, onnx_file, options, capabilities))
    progress("export tensorrt", 2, 3)
    meta: dict[str, Any] = {
        "engine": {
            "library": library.name,
            "version": library.version,
            "compute_capabilities": list(capabilities),
            "driver": driver_version(),
            "hardware_compatibility": options.hardware_compatibility,
            "version_compatible": options.version_compatible,
            "batch": [options.min_batch, options.opt_batch, options.max_batch],
            "precision": options.precision,
        },
        "onnx": {"file": onnx_file.name, "digest": file_digest(onnx_file)},
        "facts": {**facts(light), **options.metadata},
    }
    reason = why_not_run(library, capabilities, options)
    meta["state"] = "verified" if reason is None else f"built, not run: {reason}"
    if reason is None:
        meta["parity"] = check(
            file,
            graph.module,
            data.task,
            graph.example,
            options,
            runtime="tensorrt",
            rounds=graph.rounds or options.precision == "half",
            device="cuda",
        )
    progress("export tensorrt", 3, 3)
    return Exported(
        path=directory,
        format="tensorrt",
        file=file,
        digest=file_digest(file),
        inputs=described(graph.example),
        output=OUTPUT,
        scheme=graph.scheme,
        meta=meta,
    )


def why_not_run(library: Library, capabilities: tuple[str, ...], options: Options) -> str | None:
    """None where this machine can run the engine, else the reason why it was only built."""
    if library.gpu is None:
        return "this machine has no CUDA GPU"
    mine = ".".join(map(str, library.gpu))
    if capabilities and mine not in capabilities:
        return f"built for compute capability {', '.join(capabilities)}, this GPU has {mine}"
    return None if options.parity else "parity was turned off"


def _onnx_options(options: Options) -> source.Options:
    shared = {name: getattr(options, name) for name in ExportOptions.model_fields}
    return source.Options(**shared, scheme="tensorrt")


def _half(graph: source.Graph) -> onnx.ModelProto:
    if graph.scheme:
        raise ExportError(
            "A quantized model keeps its other layers in float32",
            got="precision='half'",
            do="leave precision out, or export the model before quantizing",
        )
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(graph.proto, keep_io_types=True))
    half.topological_sort()
    made: onnx.ModelProto = half.model
    return made
