"""The TensorRT libraries: which is here, and how an engine is built with it from an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.errors import ExportError, MissingExtraError

if TYPE_CHECKING:
    from lwplugin.export.tensorrt import Options

LIBRARIES = ("tensorrt", "tensorrt_rtx")


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


def capabilities_of(library: Library, options: Options) -> tuple[str, ...]:
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
