"""Every LWPLUGIN_* variable, read from the environment when asked, never stored.

MLflow's own variables (MLFLOW_TRACKING_URI, credentials, …) stay MLflow's; secrets have no place here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lwplugin.errors import LwpluginError

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def _flag(text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError("1 or 0")


def _bytes(text: str) -> int:
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    size = float(number.removesuffix(unit)) * _UNITS[unit]
    if not 1 <= size < math.inf:
        raise ValueError("a positive size such as 500000000 or 20GiB")
    return int(size)


def _count(text: str) -> int:
    if int(text) < 0:
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _form(text: str) -> str:
    if text.lower() in ("text", "json"):
        return text.lower()
    raise ValueError("text or json")


def _read(parse: Callable[[str], Any], what: str) -> dict[str, Any]:
    return {"parse": parse, "help": what}


@dataclass(frozen=True)
class Settings:
    """What the environment says. ``help`` of each field documents it for `lwplugin settings`."""

    store: Path = field(
        default=Path(".lwplugin"),
        metadata=_read(Path, "directory of step results, shared by all recipes"),
    )
    shared_store: str | None = field(
        default=None,
        metadata=_read(
            str, "fsspec address where results are shared with other machines, e.g. s3://bucket/lwplugin"
        ),
    )
    allow_pickle: bool = field(
        default=True,
        metadata=_read(
            _flag, "0: never unpickle a model from a registry; only factory and safetensors origins load"
        ),
    )
    trusted_keys: Path | None = field(
        default=None,
        metadata=_read(
            Path,
            "PEM file (or directory of them) with public keys: only models that one of them signed are compressed "
            "or promoted; unset: no signature is asked for",
        ),
    )
    max_model_bytes: int = field(
        default=20 * 2**30,
        metadata=_read(_bytes, "largest model directory that is read from a registry, e.g. 20GiB"),
    )
    threads: int = field(
        default=0,
        metadata=_read(_count, "threads torch computes with while compressing; 0: leave it to torch"),
    )
    device: str = field(
        default="auto",
        metadata=_read(str, "where compressing computes: auto (cuda where there is one), cpu, cuda, cuda:1"),
    )
    processes: int = field(
        default=1,
        metadata=_read(_count, "processes that train together, where a step was not told another number"),
    )
    train_job: str | None = field(
        default=None,
        metadata=_read(
            str,
            "set by the Kubeflow compiler: the Trainer job of a step with several nodes, as JSON",
        ),
    )
    serve_threads: int | None = field(
        default=None,
        metadata=_read(_count, "threads of a served light version; unset: those it was measured with"),
    )
    serve_batch: int = field(
        default=256,
        metadata=_read(_count, "most rows a served light version runs at once"),
    )
    devices: Path | None = field(
        default=None,
        metadata=_read(Path, "inventory of remote devices; unset: devices.yaml in the working directory"),
    )
    toolchains: Path = field(
        default=Path("~/.cache/lwplugin/toolchains"),
        metadata=_read(Path, "directory of the environments that `lwplugin toolchain install` makes"),
    )
    log: str = field(
        default="text",
        metadata=_read(
            _form, "json: `lwplugin run` tells of each step as a JSON object a line, with run and model"
        ),
    )
    debug: bool = field(default=False, metadata=_read(_flag, "1: show tracebacks"))


def variable(name: str) -> str:
    """The environment variable of a field: ``LWPLUGIN_STORE``."""
    return f"LWPLUGIN_{name.upper()}"


def read(environ: Mapping[str, str]) -> Settings:
    """Raises LwpluginError naming the variable whose text cannot be read."""
    values: dict[str, Any] = {}
    for entry in fields(Settings):
        text = environ.get(variable(entry.name), "").strip()
        if not text:
            continue
        try:
            values[entry.name] = entry.metadata["parse"](text)
        except ValueError as error:
            raise LwpluginError(
                f"Environment variable {variable(entry.name)} cannot be read",
                got=repr(text),
                do=f"set it to {entry.metadata['help']} ({error}), or unset it",
            ) from None
    return Settings(**values)


def settings() -> Settings:
    """The settings of this moment; reading is cheap, so nothing is cached."""
    return read(os.environ)
