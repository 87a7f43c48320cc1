"""What this device can measure with: runtimes that are installed, found without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable

from lwplugin.errors import MeasureError, did_you_mean
from lwplugin.measure.runtimes.base import PACKAGES, RUNTIMES

# torch unpickles and is heavy, a compiled package is machine code: offered only where a device's owner names them.
_NOT_BY_DEFAULT = {"torch", "aotinductor"}


def offered(wanted: Iterable[str] = ()) -> dict[str, str]:
    """Runtime → version, of those that are installed; ``wanted`` names them, none: all light ones.

    Raises MeasureError for a wanted runtime that is unknown or not installed.
    """
    found: dict[str, str] = {}
    names = list(wanted)
    for name in names or [name for name in RUNTIMES if name not in _NOT_BY_DEFAULT]:
        if name not in RUNTIMES:
            raise MeasureError("Unknown runtime", got=name, do=did_you_mean(name, RUNTIMES))
        package = PACKAGES.get(name, name)
        if importlib.util.find_spec(package) is None:
            if names:
                raise MeasureError(f"The runtime {name} is not installed", do=f"pip install {package}")
            continue
        found[name] = _version(package)
    if not found:
        raise MeasureError("No runtime is installed here", do="pip install onnxruntime")
    return found


def _version(package: str) -> str:
    """Of the first distribution that brings the package; empty where none says so."""
    for distribution in (package, package.replace("_", "-"), f"{package}-gpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
