"""The user's own code, named in a recipe as ``package.module:object`` or ``path/to/file.py:object``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from lwplugin.errors import DataError, did_you_mean


def load_object(reference: str, *, what: str) -> Any:
    """Imports the object; ``what`` says in errors what it was wanted for ("data source", "task").

    Raises DataError where the module or the object does not exist.
    """
    place, name = reference_parts(reference, what)
    module = _file_module(place, what) if place.endswith(".py") else _named_module(place, what)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            raise no_object(reference, what, part, vars(module))
        target = getattr(target, part)
    return target


def source_digest(reference: str, *, what: str) -> str:
    """sha256 of the source file the reference points into, found without running it.

    What that file imports is not followed. (Parent packages of a dotted module are imported.)
    """
    place, _ = reference_parts(reference, what)
    return hashlib.sha256(source_file(place, what).read_bytes()).hexdigest()


def reference_parts(reference: str, what: str) -> tuple[str, str]:
    """(module or file, object). Raises DataError."""
    place, colon, name = reference.rpartition(":")
    if not colon or not place or not name:
        raise DataError(
            f"The {what} must name an object in a module",
            got=repr(reference),
            do="write 'package.module:name' or 'path/to/file.py:name'",
        )
    return place, name


def source_file(place: str, what: str) -> Path:
    """Where the module or file lies, found without running it. Raises DataError where it is absent."""
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise _no_file(place, what)
        return Path(place)
    try:
        spec = importlib.util.find_spec(place)
    except ModuleNotFoundError as error:
        raise _no_module(place, what, error) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise _no_module(place, what, None)
    return Path(spec.origin)


def _named_module(place: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(error.name + ".")):
            raise _no_module(place, what, error) from error
        raise


def _file_module(place: str, what: str) -> ModuleType:
    path = Path(place).resolve()
    if not path.is_file():
        raise _no_file(place, what)
    # The content is part of the name, so that an edited file is imported anew in a living process.
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"lwplugin_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _no_file(place, what)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _no_module(place: str, what: str, error: Exception | None) -> DataError:
    return DataError(
        f"The module '{place}' of the {what} cannot be imported",
        got=error,
        do="install it, put its folder on PYTHONPATH, or name the file: 'path/to/file.py:name'",
    )


def no_object(reference: str, what: str, name: str, present: Iterable[str]) -> DataError:
    """The error for a name that a module has not."""
    public = [known for known in present if not known.startswith("_")]
    return DataError(
        f"The {what} '{reference}' is not there", got=f"no '{name}'", do=did_you_mean(name, public)
    )


def _no_file(place: str, what: str) -> DataError:
    return DataError(
        f"The file '{place}' of the {what} does not exist",
        got=f"working directory {Path.cwd()}",
        do="give an absolute path, or one relative to the working directory",
    )
