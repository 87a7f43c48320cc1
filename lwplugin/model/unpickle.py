"""Reading a pickled model that came from a registry: scanned first, refused on request."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from lwplugin.errors import ModelError
from lwplugin.log_levels import no_less_than
from lwplugin.settings import settings

_AS_FACTORY = (
    "log the model with serialization_format='pickle', or give a factory: origin=FactoryOrigin('pkg:fn')"
)

_LARGEST_RATIO = 100


def load_pickle(path: Path, *, allow_pickle: bool | None, code: Path | None = None) -> nn.Module:
    """The pickled nn.Module in a file, on the CPU.

    ``code`` is a directory of the user's modules that the pickle refers to. ``allow_pickle`` None means what
    LWPLUGIN_ALLOW_PICKLE says. Raises ModelError when pickles are off, when the scan finds a dangerous
    import, and when the file does not hold an nn.Module.
    """
    if not (settings().allow_pickle if allow_pickle is None else allow_pickle):
        raise ModelError(
            f"'{path.name}' is a pickle and unpickling is turned off",
            do="use a model with a factory origin, or allow it with LWPLUGIN_ALLOW_PICKLE=1",
        )
    scan(path)
    with importable(code):
        try:
            module = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise ModelError(
                f"The pickled model '{path.name}' cannot be loaded",
                got=f"{type(error).__name__}: {error}",
                do="install the packages its code needs, put their folder on PYTHONPATH, or log it with "
                "code_paths=[…]",
            ) from error
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("The model is TorchScript, whose layers cannot be changed", do=_AS_FACTORY)
    if not isinstance(module, nn.Module):
        raise ModelError(
            "The pickled file does not hold an nn.Module", got=type(module).__name__, do=_AS_FACTORY
        )
    return module


@no_less_than(logging.CRITICAL, "picklescan")  # its findings are in our error
def scan(path: Path) -> None:
    """Raises ModelError where a pickle in the file imports something that can run commands or read files."""
    from picklescan.scanner import SafetyLevel, scan_file_path, scan_pickle_bytes  # type: ignore[import-untyped]

    try:
        _refuse_bomb(path)
        result = scan_file_path(str(path))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(name.endswith("constants.pkl") for name in names):
                    raise ModelError(
                        "The model is TorchScript, whose layers cannot be changed", do=_AS_FACTORY
                    )
                for name in names:
                    if name.endswith(".pkl"):
                        result.merge(scan_pickle_bytes(io.BytesIO(archive.read(name)), f"{path}:{name}"))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"'{path.name}' cannot be scanned for dangerous pickles",
            got=f"{type(error).__name__}: {error}",
            do="check that the file is a complete torch file",
        ) from error
    bad = sorted({f"{g.module}.{g.name}" for g in result.globals if g.safety == SafetyLevel.Dangerous})
    if bad or result.issues_count or result.scan_err:
        raise ModelError(
            f"'{path.name}' is a pickle that may run commands, so it is not loaded",
            got=", ".join(bad) or "a damaged pickle",
            do="define the model's class in an importable module (not __main__, no notebook), log it again, "
            "or give a factory origin",
        )


def _refuse_bomb(path: Path) -> None:
    """Raises ModelError for an archive that would unpack to far more than it is; torch itself does not compress."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    packed, limit = path.stat().st_size, settings().max_model_bytes
    if unpacked > limit or unpacked > _LARGEST_RATIO * packed:
        raise ModelError(
            f"'{path.name}' is an archive that unpacks to much more than it is, so it is not opened",
            got=f"{packed:,} bytes that become {unpacked:,}",
            do="log the model again; if it is that large, raise LWPLUGIN_MAX_MODEL_BYTES",
        )


@contextlib.contextmanager
def importable(code: Path | None) -> Iterator[None]:
    """Lets a model's own modules be imported from ``code``, as the model was logged with.

    Modules of the same name that another model brought with different text are forgotten first. The directory
    stays at the end of the path, for imports that happen while the model runs.
    """
    if code is None:
        yield
        return
    place = str(code)
    for file in code.rglob("*.py"):
        parts = file.relative_to(code).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if name and loaded and Path(loaded).exists() and Path(loaded).read_bytes() == file.read_bytes():
            continue
        if name in sys.modules and "lwplugin_code" in vars(sys.modules[name]):
            del sys.modules[name]
    before = set(sys.modules)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)
        for name in sys.modules.keys() - before:
            file_of = getattr(sys.modules[name], "__file__", None) or ""
            if file_of.startswith(place):
                vars(sys.modules[name])["lwplugin_code"] = place
