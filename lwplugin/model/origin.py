"""How to build a model's unmodified module again: a factory, or the MLflow model directory as pulled."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lwplugin.artifact import canonical_json, list_files
from lwplugin.errors import ModelError, StoreError
from lwplugin.model.uninitialised import build_uninitialised

ORIGIN_FILE = "origin.json"
MODEL_DIRECTORY = "model"
_MAX_JSON_BYTES = 2**20
_NEVER_FACTORIES = frozenset(
    {
        *("pip", "setuptools", "pkg_resources", "wheel", "numpy", "scipy", "pandas", "sklearn", "joblib"),
        *("cloudpickle", "dill", "mlflow", "IPython", "pytest", "_pytest", "picklescan", "yaml", "jinja2"),
        *("click", "rich", "requests", "urllib3", "cffi", "numba", "sympy", "fsspec", "psutil"),
    }
)


class Origin(ABC):
    """Builds the unmodified module; written into every bundle."""

    @abstractmethod
    def build(self, *, numbers: bool = True, allow_pickle: bool | None = None) -> nn.Module:
        """A new module in eval mode. ``numbers=False``: the caller replaces every tensor, so they may be
        anything. Raises ModelError where it cannot be built."""

    @abstractmethod
    def write(self, directory: Path) -> None:
        """Writes the origin into an existing empty directory."""


@dataclass(frozen=True)
class FactoryOrigin(Origin):
    """A function or class of an installed package, ``"pkg.module:name"``, called with JSON arguments.

    Importing a module runs its code, so this trusts installed packages, and only them: names in the standard
    library and in tools that can run commands are refused, and what is called must be an nn.Module class or a
    plain function of that package.
    """

    path: str
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, _, name = self.path.partition(":") if isinstance(self.path, str) else ("", "", "")
        parts = [*module.split("."), *name.split(".")]
        if not all(part.isidentifier() for part in parts) or any(p.startswith("_") for p in name.split(".")):
            raise ModelError(
                "A factory path cannot be read",
                got=repr(self.path),
                do="write it as 'package.module:function'",
            )
        if not isinstance(self.args, dict) or not all(isinstance(key, str) for key in self.args):
            raise ModelError("Factory arguments must be a mapping of names", got=repr(self.args))
        try:
            canonical_json(self.args)
        except StoreError as error:
            raise ModelError("Factory arguments must be plain JSON", got=error.got, do=error.do) from error

    def build(self, *, numbers: bool = True, allow_pickle: bool | None = None) -> nn.Module:
        factory = self.resolve()

        def make() -> nn.Module:
            made: nn.Module = factory(**json.loads(canonical_json(self.args)))
            return made

        try:
            module = make() if numbers else build_uninitialised(make)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"Factory '{self.path}' failed with arguments {self.args}",
                got=f"{type(error).__name__}: {error}",
                do="check the arguments and the installed version of its package",
            ) from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"Factory '{self.path}' did not return an nn.Module", got=type(module).__name__)
        return module.eval()

    def resolve(self) -> Callable[..., Any]:
        """The callable; raises ModelError where it cannot be imported or is nothing that builds models."""
        module_name, _, name = self.path.partition(":")
        package = module_name.partition(".")[0]
        if package == "__main__":
            raise ModelError(
                f"Factory '{self.path}' lives in __main__, which no other process can import",
                do="move it into a module of its own",
            )
        if package in sys.stdlib_module_names or package in _NEVER_FACTORIES:
            raise ModelError(
                f"'{self.path}' is not accepted as a factory", do="name a function of your package"
            )
        try:
            found: Any = importlib.import_module(module_name)
            for part in name.split("."):
                if found is not sys.modules.get(module_name) and not inspect.isclass(found):
                    raise AttributeError(f"'{part}' is not looked for inside a {type(found).__name__}")
                found = getattr(found, part)
        except Exception as error:
            raise ModelError(
                f"Factory '{self.path}' cannot be imported",
                got=f"{type(error).__name__}: {error}",
                do="install its package here, or put its directory on PYTHONPATH",
            ) from error
        plain = inspect.ismethod(found) or inspect.isfunction(found)
        home = str(getattr(found, "__module__", "")).partition(".")[0]
        if inspect.isclass(found) and issubclass(found, nn.Module):
            return found
        if not plain or home != package or package == "torch":
            raise ModelError(
                f"'{self.path}' is not accepted as a factory",
                got=f"a {type(found).__name__} of '{home}'",
                do="name an nn.Module class, or a plain function defined in that package",
            )
        return found  # type: ignore[no-any-return]

    def write(self, directory: Path) -> None:
        _write_json(directory, {"kind": "factory", "path": self.path, "args": self.args})


@dataclass(frozen=True)
class MlflowOrigin(Origin):
    """An MLflow model directory (the one with the MLmodel file) of the pytorch or transformers flavor.

    Weights of 16 bits become float32.
    """

    directory: Path
    flavor: Literal["pytorch", "transformers"] = "pytorch"

    @staticmethod
    def detect(directory: str | Path) -> MlflowOrigin:
        """The origin of a model directory by the flavors its MLmodel lists.

        Raises ModelError where none of them can be compressed.
        """
        from lwplugin.model.mlflow_directory import detect

        return MlflowOrigin(Path(directory), detect(Path(directory)))

    def build(self, *, numbers: bool = True, allow_pickle: bool | None = None) -> nn.Module:
        from lwplugin.model.mlflow_directory import build

        module = build(self.directory, self.flavor, numbers=numbers, allow_pickle=allow_pickle).eval()
        # Compressing computes in float32; a bundle's tensors may be narrower than its origin's in any case.
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for tensor in held.values():
                    if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16):
                        tensor.data = tensor.data.float()
        return module

    def write(self, directory: Path) -> None:
        try:
            list_files(self.directory)
        except StoreError as error:
            raise ModelError(
                "The model's MLflow directory cannot be copied", got=error, do="pull the model again"
            ) from error
        shutil.copytree(self.directory, directory / MODEL_DIRECTORY)
        _write_json(directory, {"kind": "mlflow", "flavor": self.flavor})


@dataclass(frozen=True)
class InMemoryOrigin(Origin):
    """A module that was only ever handed over as an object: can be worked on and measured, not saved."""

    type_name: str

    def build(self, *, numbers: bool = True, allow_pickle: bool | None = None) -> nn.Module:
        raise self._error("built again")

    def write(self, directory: Path) -> None:
        raise self._error("saved")

    def _error(self, what: str) -> ModelError:
        first = "move the class into a .py file that other processes can import, then "
        return ModelError(
            f"This {self.type_name} cannot be {what}: nothing says how to make it in another process",
            do=(first if self.type_name.startswith("__main__.") else "")
            + "begin with lwplugin.light(model, origin=lwplugin.FactoryOrigin('pkg.module:function', {…})), which "
            "names what builds the unmodified model",
        )


def read_origin(directory: Path) -> Origin:
    """The origin written in a bundle's ``origin`` directory; nothing of it is run.

    Raises ModelError for anything but the two kinds that are written.
    """
    file = directory / ORIGIN_FILE
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes of JSON")
        data = json.loads(file.read_bytes())
        kind = data.pop("kind")
        if kind == "factory" and data.keys() == {"path", "args"}:
            return FactoryOrigin(**data)
        if kind == "mlflow" and data.keys() == {"flavor"} and data["flavor"] in ("pytorch", "transformers"):
            return MlflowOrigin(directory / MODEL_DIRECTORY, data["flavor"])
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ModelError("The bundle's origin cannot be read", got=repr(error)) from error
    raise ModelError("The bundle's origin is of no known kind", got=repr(kind)[:80])


def _write_json(directory: Path, value: dict[str, Any]) -> None:
    (directory / ORIGIN_FILE).write_text(canonical_json(value))
