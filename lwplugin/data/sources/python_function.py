"""The user's own function: ``module:function`` or ``file.py:function``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lwplugin.data.foreseen import foresee
from lwplugin.data.sources.base import Parts, Request, Source, SourceOptions
from lwplugin.data.user_code import load_object, source_digest
from lwplugin.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from lwplugin.data.dataset import Data
    from lwplugin.data.split import Split

_KEYS = ("train", "calibration", "test", "slices")


class PythonFunctionOptions(SourceOptions):
    """Options of a function source."""

    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the function.")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share drawn for testing where the function returns one set."
    )


def read(options: PythonFunctionOptions, request: Request) -> Parts | Data:
    """Calls the function. It may return

    - a mapping with any of ``train``, ``calibration``, ``test``, each ``(x, y)``, ``x`` or a map-style
      data set, and optionally ``slices``: ``{name: {split: values}}``;
    - one ``(x, y)`` or one map-style data set, which is then split;
    - a finished ``lwplugin.data.Data``.
    """
    from lwplugin.data.dataset import Data, as_reader
    from lwplugin.data.split import Split

    function = load_object(request.source, what="data source")
    if not callable(function):
        raise DataError(
            f"The data source '{request.source}' is not a function", got=f"a {type(function).__name__}"
        )
    returned = function(**options.args)
    if isinstance(returned, Data):
        return returned
    if isinstance(returned, Mapping) and set(returned) & {"train", "calibration", "test"}:
        return _mapped(returned, request, options)
    if returned is None:
        raise DataError(f"The data source '{request.source}' returned nothing", do="return (x, y) or splits")
    _no_columns(request, {})
    whole = Split("examples", as_reader(returned))
    return Parts(whole=whole, test_fraction=options.test_fraction)


def check(options: PythonFunctionOptions, request: Request) -> None:
    """Refuses a file or module that is not there or does not name the function, and arguments it does not take."""
    foresee(request.source, what="data source", arguments=options.args)


def contents(source: str, options: PythonFunctionOptions) -> Any:
    """The source of the file the function is in, and its arguments. What it reads is not followed."""
    return {
        "code": source_digest(source, what="data source"),
        "function": source.rpartition(":")[2],
        "args": json.loads(json.dumps(options.args, default=str)),
        "test_fraction": options.test_fraction,
    }


def _mapped(returned: Mapping[str, Any], request: Request, options: PythonFunctionOptions) -> Parts:
    from lwplugin.data.dataset import as_reader
    from lwplugin.data.split import Split

    for key in returned:
        if key not in _KEYS:
            raise DataError(
                f"The data source '{request.source}' returned an unknown key '{key}'",
                do=did_you_mean(str(key), _KEYS),
            )
    slices: Mapping[str, Mapping[str, np.ndarray]] = returned.get("slices") or {}
    _no_columns(request, slices)

    def split(name: str) -> Split | None:
        if returned.get(name) is None:
            return None
        columns = {column: by_split[name] for column, by_split in slices.items() if name in by_split}
        return Split(name, as_reader(returned[name]), slices=columns)

    return Parts(train=split("train"), calibration=split("calibration"), test=split("test"))


def _no_columns(request: Request, slices: Mapping[str, Any]) -> None:
    for column in request.slices:
        if column not in slices:
            raise DataError(
                f"The data source '{request.source}' gives no slice '{column}'",
                do=f"return it under 'slices'; {did_you_mean(column, slices)}",
            )


SOURCE: Source = Source(
    "module:function", PythonFunctionOptions, read, check, contents, "a function of your own"
)
