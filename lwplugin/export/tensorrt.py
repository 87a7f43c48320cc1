"""TensorRT 10 and 11, and TensorRT-RTX: an engine for one kind of GPU, built from our ONNX, which stays beside it.

Networks are strongly typed: precision is what the ONNX says (float32, float16, or explicit symmetric Q/DQ), and the
builder chooses kernels, not types. An engine belongs to its library's version and to compute capabilities; both are
written down, and the runtime refuses an engine of another kind. Where no GPU can run it, it is built and *not run*.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from lwplugin.errors import ExportError, MissingExtraError
from lwplugin.export import onnx as source
from lwplugin.export.base import Exported, ExportOptions, file_digest
from lwplugin.export.parity import check
from lwplugin.export.source import OUTPUT, described, facts

if TYPE_CHECKING:
    import onnx

    from lwplugin.data import Data
    from lwplugin.model.bundle import LightModel
    from lwplugin.progress import Progress

FILE = "model.engine"
LIBRARIES = ("tensorrt", "tensorrt_rtx")


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


@dataclass(frozen=True)
class Library:
    """An importable TensorRT and the GPU it would run on, if there is one."""

    name: str
    trt: Any
    gpu: tuple[int, int] | None
    """Compute capability of the first GPU."""

    @property
    def version(self) -> str:
        return str(self.trt.__version__)


def write(light: LightModel, data: Data, directory: Path, options: Options, progress: Progress) -> Exported:
    """ONNX, engine, and, where a GPU can run it, the comparison in a fresh process."""
    library = find_library(options.library)
    graph = source.graph_of(light, data, _onnx_options(options), progress)
    proto = _half(graph) if options.precision == "half" else graph.proto
    onnx_file, file = directory / source.FILE, directory / FILE
    source.save(proto, onnx_file)
    capabilities = _capabilities(library, options)
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


def find_library(wanted: str = "auto") -> Library:
    """The library asked for, or the first that is installed. Raises MissingExtraError where there is none."""
    for name in LIBRARIES if wanted == "auto" else (wanted,):
        try:
            return Library(name, import_module(name), _gpu())
        except ImportError:
            continue
    raise MissingExtraError(
        "tensorrt" if wanted == "auto" else wanted, extra="tensorrt", why="Building an engine"
    )


def why_not_run(library: Library, capabilities: tuple[str, ...], options: Options) -> str | None:
    """None where this machine can run the engine, else the reason why it was only built."""
    if library.gpu is None:
        return "this machine has no CUDA GPU"
    mine = ".".join(map(str, library.gpu))
    if capabilities and mine not in capabilities:
        return f"built for compute capability {', '.join(capabilities)}, this GPU has {mine}"
    return None if options.parity else "parity was turned off"


def build(library: Library, onnx_file: Path, options: Options, capabilities: tuple[str, ...]) -> bytes:
    """Parse and build. Raises ExportError with the parser's or the builder's own words."""
    trt, log = library.trt, _log(library.trt)
    builder = trt.Builder(log)
    kinds = trt.NetworkDefinitionCreationFlag
    # Version 11 types networks strongly without being told.
    flags = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        said = "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))
        raise ExportError(
            "TensorRT cannot read this model",
            got=said[:500],
            do="leave the layer it names in float, or export format 'onnx'",
        )
    config = _config(library, builder, network, options, capabilities)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            "TensorRT built no engine",
            got=(log.errors or ["no reason given"])[-1][:500],
            do="raise workspace_bytes, lower max_batch, or leave the layer it names in float",
        )
    if options.timing_cache is not None and (cache := config.get_timing_cache()) is not None:
        _keep(options.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def driver_version() -> str | None:
    """Of the NVIDIA driver; None where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:
        return None


def _config(
    library: Library, builder: Any, network: Any, options: Options, capabilities: tuple[str, ...]
) -> Any:
    trt, config = library.trt, builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        entry = network.get_input(place)
        rest = tuple(entry.shape)[1:]
        if any(size < 0 for size in rest):
            raise ExportError(
                "TensorRT needs every dimension but the batch",
                got=f"input '{entry.name}' of shape {tuple(entry.shape)}",
                do="export from examples of one length",
            )
        sizes = (options.min_batch, options.opt_batch, options.max_batch)
        profile.set_shape(entry.name, *((size, *rest) for size in sizes))
    config.add_optimization_profile(profile)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=True)
    if library.name == "tensorrt_rtx" and capabilities:
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(_rtx_capability(trt, capability), place)
    return config


def _capabilities(library: Library, options: Options) -> tuple[str, ...]:
    """What the engine is built for. TensorRT builds for the GPU that is there; RTX for any that is named."""
    if library.name == "tensorrt":
        if options.compute_capabilities:
            raise ExportError(
                "TensorRT builds for the GPU of this machine",
                got=f"compute_capabilities={options.compute_capabilities}",
                do="leave them out, build on such a GPU, or use library='tensorrt_rtx'",
            )
        if library.gpu is None:
            raise ExportError(
                "TensorRT needs the GPU it builds for", got="no CUDA GPU", do="export on a node that has one"
            )
    if options.compute_capabilities:
        return options.compute_capabilities
    return (".".join(map(str, library.gpu)),) if library.gpu else ("8.9",)


def _rtx_capability(trt: Any, capability: str) -> Any:
    name = f"SM{capability.replace('.', '')}"
    known = [each for each in dir(trt.ComputeCapability) if each.startswith("SM")]
    if name not in known:
        raise ExportError(
            "TensorRT-RTX does not build for this compute capability",
            got=capability,
            do=f"use one of {', '.join(known)}",
        )
    return getattr(trt.ComputeCapability, name)


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


def _gpu() -> tuple[int, int] | None:
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # the library calls it with everything it has to say
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _keep(file: Path, content: bytes) -> None:
    part = file.with_name(file.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    part.replace(file)
