"""Reads an MLflow model directory without MLflow: the pytorch and transformers flavors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from lwplugin.errors import MissingExtraError, ModelError
from lwplugin.model.uninitialised import build_uninitialised
from lwplugin.model.unpickle import load_pickle

Flavor = Literal["pytorch", "transformers"]
_MAX_YAML_BYTES = 16 * 2**20
_RELOG = (
    "log it again with mlflow.pytorch.log_model(…, serialization_format='pickle'), or give a factory: "
    "FactoryOrigin('pkg.module:function', {…})"
)


def detect(directory: Path) -> Flavor:
    """The flavor to read; raises ModelError where the directory has none that holds an nn.Module."""
    flavors = _flavors(directory)
    if "pytorch" in flavors:
        return "pytorch"
    if "transformers" in flavors:
        return "transformers"
    raise ModelError(
        "The model has no flavor that can be compressed",
        got=", ".join(sorted(flavors)) or "no flavors",
        do="log it with mlflow.pytorch (serialization_format='pickle') or mlflow.transformers",
    )


def build(directory: Path, flavor: Flavor, *, numbers: bool, allow_pickle: bool | None) -> nn.Module:
    """The module of a model directory. Raises ModelError where it is not there, refused or damaged."""
    flavors = _flavors(directory)
    if flavor not in flavors:
        raise ModelError(f"The model directory has no flavor '{flavor}'", got=", ".join(sorted(flavors)))
    options = flavors[flavor]
    if flavor == "pytorch":
        return _pytorch(directory, options, allow_pickle)
    return _transformers(directory, options, numbers)


def _pytorch(directory: Path, options: dict[str, Any], allow_pickle: bool | None) -> nn.Module:
    data = _inside(directory, options.get("model_data") or "data")
    pickled = data / "model.pth"
    if not pickled.is_file():
        exported = (data / "model.pt2").is_file()
        raise ModelError(
            "The model was logged as pt2 (torch.export), a graph without layers that could be changed"
            if exported
            else "The model directory holds no pickled module",
            got="data/model.pt2" if exported else ", ".join(sorted(p.name for p in data.glob("*")))[:200],
            do=_RELOG,
        )
    code = _inside(directory, options["code"]) if options.get("code") else None
    return load_pickle(pickled, allow_pickle=allow_pickle, code=code)


def _transformers(directory: Path, options: dict[str, Any], numbers: bool) -> nn.Module:
    if options.get("peft") or options.get("peft_adaptor"):
        raise ModelError(
            "The model is a PEFT adapter", do="merge the adapter (merge_and_unload) and log the result"
        )
    if not options.get("model_binary"):
        raise ModelError(
            "The model was logged as a reference to a hub, without weights",
            got=options.get("source_model_name"),
            do="log it with save_pretrained=True",
        )
    place = _inside(directory, options["model_binary"])
    if not (place / "config.json").is_file() or not list(place.glob("*.safetensors")):
        raise ModelError(
            "The transformers model has no config.json with safetensors weights",
            got=", ".join(sorted(p.name for p in place.glob("*")))[:200],
            do="save it again with a current transformers, which writes model.safetensors",
        )
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", extra="text", why="A transformers model") from error
    name = str(options.get("pipeline_model_type") or _architecture(place))
    cls = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(cls, type) or not issubclass(cls, transformers.PreTrainedModel):
        raise ModelError(
            "The model's class is not one of the installed transformers", got=name, do="install its version"
        )
    model: Any = cls
    try:
        if numbers:
            with _no_progress_bar():
                loaded: Any = model.from_pretrained(
                    str(place),
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    dtype="auto",
                )
        else:
            from_config: Any = model._from_config
            config = transformers.AutoConfig.from_pretrained(str(place), local_files_only=True)
            loaded = build_uninitialised(lambda: from_config(config))
    except Exception as error:
        raise ModelError(
            f"The transformers model {name} cannot be loaded",
            got=f"{type(error).__name__}: {error}",
            do="check the installed version of transformers",
        ) from error
    module: nn.Module = loaded
    return module


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _architecture(place: Path) -> str:
    try:
        named = json.loads((place / "config.json").read_bytes())["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError("The model's config.json names no class", got=repr(error)) from error
    return str(named)


def _flavors(directory: Path) -> dict[str, dict[str, Any]]:
    file = directory / "MLmodel"
    try:
        if file.stat().st_size > _MAX_YAML_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes of YAML")
        flavors = yaml.safe_load(file.read_bytes())["flavors"]
        return {str(name): dict(options or {}) for name, options in flavors.items()}
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        raise ModelError(
            f"'{directory}' is not an MLflow model directory",
            got=repr(error),
            do="give the directory with MLmodel",
        ) from error


def _inside(directory: Path, name: Any) -> Path:
    root = directory.resolve()
    place = (root / str(name)).resolve()
    if not place.is_relative_to(root):
        raise ModelError("The model directory points outside itself", got=str(name))
    return place
