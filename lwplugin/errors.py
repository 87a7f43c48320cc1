"""Every error a user can meet. Each message says what happened, what was got, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LwpluginError(Exception):
    """Base of all errors raised on purpose; the command line turns it into exit code 2.

    >>> print(DataError("Slice 'night' is too small", got="37 examples, the gate needs 200", do="add data"))
    Slice 'night' is too small: got 37 examples, the gate needs 200. Do: add data.
    """

    def __init__(self, what: str, *, got: object = None, do: str | None = None) -> None:
        self.what = what.rstrip(".")
        self.got = None if got is None else str(got).rstrip(".")
        self.do = None if do is None else do.rstrip(".")
        message = self.what
        if self.got is not None:
            message += f": got {self.got}"
        message += "."
        if self.do is not None:
            message += f" Do: {self.do}."
        super().__init__(message)


class RecipeError(LwpluginError):
    """A recipe or an option is wrong; nothing has run."""


class DataError(LwpluginError):
    """Examples, labels, splits or slices cannot be used as asked."""


class ModelError(LwpluginError):
    """A model, its origin or a bundle cannot be read, built, traced or changed."""


class MethodError(LwpluginError):
    """A compression method cannot do what it was asked on this model."""


class ExportError(LwpluginError):
    """A model cannot be written in a format, or the written file is not the model."""


class MeasureError(LwpluginError):
    """A runtime cannot load or run a file, or the measurement is not usable."""


class GateError(LwpluginError):
    """The gate was given something it cannot judge; never a pass."""


class RegistryError(LwpluginError):
    """The registry refused, or holds something else than expected."""


class StoreError(LwpluginError):
    """A stored step result is damaged or cannot be written."""


class ToolchainError(LwpluginError):
    """A toolchain's environment is not there, cannot be made, or broke off."""


class MissingExtraError(LwpluginError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, *, extra: str, why: str) -> None:
        super().__init__(
            f"{why} needs the package '{package}', which is not installed",
            do=f"pip install 'lwplugin[{extra}]'",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, and all of them.

    >>> did_you_mean("tailor", ["taylor", "magnitude"])
    "did you mean 'taylor'? known: magnitude, taylor"
    >>> did_you_mean("team", [])
    'known: none'
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known) or 'none'}"
