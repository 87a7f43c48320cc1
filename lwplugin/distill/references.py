"""What a teacher can be named by: the parent, another registered version, a bundle, an ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from lwplugin.errors import ModelError
from lwplugin.progress import Progress

if TYPE_CHECKING:
    from lwplugin.model.bundle import LightModel

PARENT = "parent"
Reference: TypeAlias = "nn.Module | LightModel | str | Path"


def open_all(
    given: Reference | Sequence[Reference],
    named: Sequence[str],
    *,
    tracking_uri: str | None,
    progress: Progress,
) -> list[nn.Module]:
    """The modules of all teachers: ``given`` where a name is `parent`, opened for every other name.

    Raises ModelError, RegistryError for one that cannot be opened.
    """
    parents = list(given) if isinstance(given, list | tuple) else [given]
    wanted: list[Any] = []
    for name in named:
        wanted += parents if name == PARENT else [name]
    return [open_teacher(one, tracking_uri=tracking_uri, progress=progress) for one in wanted]


def open_teacher(given: Reference, *, tracking_uri: str | None, progress: Progress) -> nn.Module:
    """The module behind one reference."""
    from lwplugin.model.bundle import MODEL_FILE, LightModel, load

    if isinstance(given, LightModel):
        return given.module
    if not isinstance(given, str | Path):
        return given
    if str(given).startswith("models:/"):
        from lwplugin.registry import pull, resolve

        with tempfile.TemporaryDirectory(prefix="lwplugin-teacher-") as scratch:
            version = resolve(str(given), tracking_uri=tracking_uri)
            place = pull(version, Path(scratch, "bundle"), tracking_uri=tracking_uri, progress=progress)
            return load(place).module
    place = Path(given)
    if place.suffix == ".onnx" and place.is_file():
        from lwplugin.distill.onnx_teacher import OnnxTeacher

        return OnnxTeacher(place)
    if (place / MODEL_FILE).is_file():
        return load(place).module
    raise ModelError(
        "There is no such teacher",
        got=repr(str(given)),
        do="name `parent`, a registered version (models:/name@alias), an .onnx file, or a bundle's directory",
    )


def contents(name: str, *, tracking_uri: str | None) -> str:
    """What a named teacher is, for a step's key: a version's address, a file's or bundle's digest."""
    from lwplugin.artifact import digest_directory, digest_file

    if name.startswith("models:/"):
        from lwplugin.registry import resolve

        return resolve(name, tracking_uri=tracking_uri).pinned.model_dump_json()
    place = Path(name)
    if place.is_dir():
        return digest_directory(place)
    return digest_file(place) if place.is_file() else "absent"
