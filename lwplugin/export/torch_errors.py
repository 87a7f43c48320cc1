"""What torch says while it exports: kept from the screen, and where it fails put into one line."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import warnings
from collections.abc import Iterator
from types import FrameType

from torch import nn

from lwplugin.errors import LwpluginError
from lwplugin.log_levels import no_less_than

_LOGGERS = (
    "torch.onnx",
    "torch.fx.experimental.symbolic_shapes",
    "torch._inductor.ir",
    "onnxscript.optimizer",
)
_SAYS_TWICE = "torch.export._trace"
"""Logs as an error, in torch's own words, what it raises."""
_NOT_THE_MODEL = ("torch", "lwplugin")
_LONGEST = 300


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, and without the graphs that torch prints where it gives up: these go to the debug log.

    onnxscript's optimizer says of constants that it does not fold that they failed; files are compared afterwards.
    """
    printed = io.StringIO()
    try:
        with (
            no_less_than(logging.ERROR, *_LOGGERS),
            no_less_than(logging.CRITICAL, _SAYS_TWICE),
            warnings.catch_warnings(),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        if said := printed.getvalue().strip():
            logging.getLogger(__name__).debug("torch printed:\n%s", said)


def root_cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom of a chain of exceptions, and the model's line that did it."""
    chain = _chain(error)
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    kind = type(chain[-1]).__name__
    said = f"{kind}: {lines[0][:_LONGEST]}" if lines else kind
    place = next((found for each in reversed(chain) if (found := _line_of_model(each))), None)
    return said if place is None else f"{said.rstrip('.')}, {place}"


def own_error(error: BaseException) -> LwpluginError | None:
    """The error of ours that torch wrapped: the model ran into it while it was traced, and it says what to do."""
    return next((each for each in _chain(error) if isinstance(each, LwpluginError)), None)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def _line_of_model(error: BaseException) -> str | None:
    """The innermost line of a module's method that is neither torch's nor ours."""
    found, entry = None, error.__traceback__
    while entry is not None:
        code = entry.tb_frame.f_code
        if _of_model(entry.tb_frame):
            line = linecache.getline(code.co_filename, entry.tb_lineno).strip()
            name = code.co_filename.rpartition("/")[2]
            found = f"at {name}:{entry.tb_lineno}" + (f" ({line[:_LONGEST]})" if line else "")
        entry = entry.tb_next
    return found


def _of_model(frame: FrameType) -> bool:
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return (
        bool(names) and isinstance(frame.f_locals.get(names[0]), nn.Module) and package not in _NOT_THE_MODEL
    )
