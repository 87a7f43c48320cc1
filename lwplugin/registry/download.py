"""From a registered version to a bundle on disk: downloaded, bounded, checked, and ready to compress."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from lwplugin.artifact import digest_directory, list_files
from lwplugin.errors import RegistryError
from lwplugin.progress import Progress, silent
from lwplugin.registry import mlmodel, signing
from lwplugin.registry.connect import connected
from lwplugin.registry.versions import Resolved
from lwplugin.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lwplugin.model.bundle import LightModel

# MLflow writes this into every download; it names the pointer that was followed, not the model.
_ADDED_BY_DOWNLOAD = "registered_model_meta"
_POLL_S = 0.1


def pull(
    resolved: Resolved,
    destination: Path | str,
    *,
    expect_digest: str | None = None,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Saves the version as a bundle at `destination`, which must not exist yet, and returns it.

    The bundle's source digest is that of the model directory as uploaded: the same on every machine.
    `expect_digest` refuses a version whose content has changed since.

    Raises RegistryError for a version that is too large (LWPLUGIN_MAX_MODEL_BYTES), is a pt2 graph, or has a
    flavor that cannot be compressed, and for one that LWPLUGIN_TRUSTED_KEYS asks a signature of and that has no
    good one; StoreError for one that holds links.
    """
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=destination.parent) as scratch:
        directory = download(
            resolved,
            Path(scratch, "model"),
            tracking_uri=tracking_uri,
            registry_uri=registry_uri,
            progress=progress,
        )
        digest = digest_directory(directory)
        if expect_digest is not None and digest != expect_digest:
            raise RegistryError(
                f"The content of {resolved.uri} is not what was expected",
                got=f"digest {digest[:16]}…, expected {expect_digest[:16]}…",
                do="find out who changed the artifacts; a registered version is never edited",
            )
        to_light(resolved, directory, digest).save(destination)
    return destination


def download(
    resolved: Resolved,
    destination: Path,
    *,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    progress: Progress = silent,
) -> Path:
    """The MLflow model directory as uploaded, within the size limit, without links; errors as `pull`.

    Where LWPLUGIN_TRUSTED_KEYS is set, signed by one of them. The signature itself is not kept: a version that is
    signed later keeps its digest.
    """
    fetch(resolved, destination, tracking_uri=tracking_uri, registry_uri=registry_uri, progress=progress)
    if settings().trusted_keys is not None:
        signing.verify(destination, about=resolved.uri)
    (destination / signing.SIGNATURE).unlink(missing_ok=True)
    return destination


def fetch(
    resolved: Resolved,
    destination: Path,
    *,
    tracking_uri: str | None = None,
    registry_uri: str | None = None,
    progress: Progress = silent,
) -> Path:
    """As :func:`download`, whoever signed it, and with its signature where there is one."""
    limit = settings().max_model_bytes
    destination.mkdir(parents=True)
    with connected(tracking_uri, registry_uri) as client:
        _refuse_local_links(client, resolved)
        listed = sum(size for _, size in _listing(resolved.uri))
        _check_size(resolved, listed, limit)
        _transfer(resolved.uri, destination, listed, progress)
    (destination / _ADDED_BY_DOWNLOAD).unlink(missing_ok=True)
    _check_size(resolved, sum(file.stat().st_size for file in list_files(destination).values()), limit)
    return destination


def to_light(resolved: Resolved, directory: Path, digest: str) -> LightModel:
    """The light model of a downloaded directory, its source and signature noted."""
    from lwplugin.model.bundle import Source, light, load
    from lwplugin.model.origin import MlflowOrigin

    content = mlmodel.read(directory)
    kind = mlmodel.kind(directory, content)
    if kind == "lwplugin":
        model = load(mlmodel.part(directory, content, "bundle"))
    else:
        origin = MlflowOrigin(directory=directory, flavor=kind)
        model = light(origin.build(), origin)
    source = Source(uri=resolved.uri, version=resolved.version, digest=digest)
    return replace(model, source=source, signature=mlmodel.signature_json(content))


def _transfer(uri: str, destination: Path, total: int, progress: Progress) -> None:
    import mlflow

    failure: list[BaseException] = []

    def work() -> None:
        try:
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(destination))
        except BaseException as error:  # handed to the caller's thread below
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        progress("download", min(_arrived(destination), total), total or None)
    if failure:
        raise failure[0]


def _listing(uri: str) -> Iterator[tuple[str, int]]:
    """(path, bytes) of every file, before any is fetched; a store that tells no size counts 0."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(uri)
    waiting: list[str | None] = [None]
    while waiting:
        for entry in repository.list_artifacts(waiting.pop()):
            if entry.is_dir:
                waiting.append(entry.path)
            else:
                yield entry.path, int(entry.file_size or 0)


def _check_size(resolved: Resolved, size: int, limit: int) -> None:
    if size > limit:
        raise RegistryError(
            f"{resolved.uri} is larger than allowed",
            got=f"{size:,} bytes, the limit is {limit:,}",
            do="raise LWPLUGIN_MAX_MODEL_BYTES if you trust it",
        )


def _refuse_local_links(client: MlflowClient, resolved: Resolved) -> None:
    """A store on this machine's disk is read directly, and MLflow would follow a link in it when copying."""
    location = client.get_model_version_download_uri(resolved.name, resolved.version)
    parsed = urlparse(location)
    if parsed.scheme in ("", "file"):
        root = Path(unquote(parsed.path))
        if root.is_dir():
            list_files(root)


def _arrived(root: Path) -> int:
    """Bytes on disk so far; files come and go while MLflow writes."""
    total = 0
    for parent, _, files in os.walk(root):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
