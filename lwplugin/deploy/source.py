"""What is deployed: an exported model on disk, or the one that a registered version carries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lwplugin.errors import RegistryError
from lwplugin.export import load_exported
from lwplugin.export.base import DESCRIPTION, Exported
from lwplugin.progress import Progress, silent


@dataclass(frozen=True)
class Deployable:
    """``name`` and ``version`` are the registered model's, or made from the directory; ``threads`` those it
    was registered with; ``location`` where the registry keeps its files, None for a directory."""

    exported: Exported
    name: str
    version: int = 1
    threads: int | None = None
    location: str | None = None


@contextmanager
def deployable(
    source: str, *, tracking_uri: str | None = None, progress: Progress = silent
) -> Iterator[Deployable]:
    """From ``models:/name/3``, ``models:/name@alias`` (downloaded for as long as the context is open), or the
    directory of an export or an export step.

    Raises RegistryError for a version without an exported file, ExportError for a directory without one.
    """
    if not source.startswith("models:/"):
        place = Path(source)
        inside = place / "export"
        directory = inside if (inside / DESCRIPTION).is_file() else place
        yield Deployable(load_exported(directory), resource_name(place.resolve().name))
        return
    from lwplugin.registry import mlmodel, resolve
    from lwplugin.registry.download import download

    resolved = resolve(source, tracking_uri=tracking_uri)
    with TemporaryDirectory(prefix="lwplugin-deploy-") as folder:
        model = download(resolved, Path(folder, "model"), tracking_uri=tracking_uri, progress=progress)
        content = mlmodel.read(model)
        flavors = content["flavors"]
        if mlmodel.FLAVOR not in flavors:
            raise RegistryError(
                f"{resolved.uri} carries no exported file",
                got=f"flavors {', '.join(sorted(flavors))}",
                do="name a light version, or export a bundle and name its directory",
            )
        config = (flavors.get("python_function") or {}).get("config") or {}
        yield Deployable(
            load_exported(mlmodel.part(model, content, "export")),
            resource_name(resolved.name),
            int(resolved.version),
            config.get("threads"),
            resolved.source,
        )


def resource_name(text: str) -> str:
    """A name that Kubernetes and Triton take: lower-case letters, digits and dashes, at most 40.

    >>> resource_name("Fashion ResNet_20")
    'fashion-resnet-20'
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")
    return name or "model"
