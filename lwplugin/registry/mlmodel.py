"""What an MLflow model directory is: its flavor, its signature, its input example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import yaml

from lwplugin.errors import RegistryError

FLAVOR = "lwplugin"
Kind = Literal["lwplugin", "pytorch", "transformers"]
_PT2_WAY_OUT = (
    "log the nn.Module itself, mlflow.pytorch.log_model(model, serialization_format='pickle', …), "
    "or use a factory origin (import path and safetensors weights)"
)


def read(directory: Path) -> dict[str, Any]:
    """The MLmodel file. Raises RegistryError where it is missing or no mapping."""
    file = directory / "MLmodel"
    if not file.is_file():
        raise RegistryError(
            "The version's artifacts hold no MLmodel file",
            got=f"{sorted(path.name for path in directory.iterdir())}",
            do="register a model logged by an MLflow flavor",
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RegistryError(
            "The MLmodel file cannot be read", got=error, do="register the model again"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("flavors"), dict):
        raise RegistryError(
            "The MLmodel file names no flavors", got=type(content).__name__, do="register the model again"
        )
    return content


def kind(directory: Path, content: dict[str, Any]) -> Kind:
    """Which origin the model is. Raises RegistryError for what cannot be compressed, with the way out."""
    flavors = content["flavors"]
    if FLAVOR in flavors:
        return "lwplugin"
    if "transformers" in flavors:
        return "transformers"
    if "pytorch" in flavors:
        data = directory / str(flavors["pytorch"].get("model_data", "data"))
        if not (data / "model.pth").is_file() and (data / "model.pt2").is_file():
            raise RegistryError(
                "The version is a traced graph (pt2), whose layers cannot be changed one by one",
                got="pytorch flavor with serialization_format='pt2'",
                do=_PT2_WAY_OUT,
            )
        return "pytorch"
    found = sorted(flavor for flavor in flavors if flavor != "python_function")
    raise RegistryError(
        "The version's flavor cannot be compressed",
        got=", ".join(found) or "python_function only",
        do="register a model of flavor pytorch (an nn.Module), transformers or lwplugin",
    )


def part(directory: Path, content: dict[str, Any], name: str) -> Path:
    """Where the light version's ``bundle`` or ``export`` lies. Raises RegistryError where it has none, or names a place
    that is not its own."""
    ours = content["flavors"].get(FLAVOR)
    named = ours.get(name) if isinstance(ours, dict) else None
    if not isinstance(named, str) or not named:
        raise RegistryError(
            f"The version holds no {name}",
            got="another flavor" if ours is None else f"a light version without its {name}",
            do="name a version that `lwplugin run` registered",
        )
    place = (directory / named).resolve()
    if not place.is_relative_to(directory.resolve()):
        raise RegistryError(
            f"The MLmodel names a {name} outside its directory", got=named, do="do not trust this version"
        )
    return place


def signature_json(content: dict[str, Any]) -> dict[str, Any] | None:
    """The signature as plain JSON, {"inputs": […], "outputs": […], "params": […] | None}; None if absent."""
    signature = content.get("signature")
    if not isinstance(signature, dict):
        return None
    try:
        return {
            part: json.loads(signature[part]) if isinstance(signature.get(part), str) else None
            for part in ("inputs", "outputs", "params")
        }
    except json.JSONDecodeError as error:
        raise RegistryError(
            "The MLmodel's signature is no JSON", got=error, do="register the model again"
        ) from None
