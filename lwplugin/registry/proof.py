"""What a registered version can show for itself: the verdict stored beside its file, or later, about that very file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lwplugin.errors import GateError, RegistryError
from lwplugin.registry import lineage
from lwplugin.registry.download import download
from lwplugin.registry.later_pass import later_verdict
from lwplugin.registry.seal import sealed_verdict
from lwplugin.registry.versions import Resolved
from lwplugin.settings import settings

if TYPE_CHECKING:
    from lwplugin.gate.verdict import Verdict

_VERDICT_BYTES = 16 * 2**20


def proven(version: Resolved, *, override: str | None) -> Verdict | None:
    """The version's verdict, sealed, about the file it serves, and a pass; tags alone are not believed.

    ``override``, a reason, lets a version through that has no verdict (None is answered) or no passing one.
    Raises RegistryError or GateError where it does not, and always where a verdict was tampered with or
    LWPLUGIN_TRUSTED_KEYS asks for a signature that is not there. Runs
    inside a connection.
    """
    if settings().trusted_keys is not None:
        with tempfile.TemporaryDirectory(prefix="lwplugin-proof-") as folder:
            download(version, Path(folder, "model"))
    if lineage.DIGEST not in version.tags:
        if override is not None and override.strip():
            return None
        raise RegistryError(
            f"{version.uri} has no verdict: lwplugin did not register it",
            got="a version nobody has gated",
            do="promote a light version, or say why it may go without: --override '<reason>'",
        )
    with tempfile.TemporaryDirectory(prefix="lwplugin-proof-") as folder:
        verdict, file_digest = _stored(version, Path(folder))
        verdict = later_verdict(version, Path(folder)) or verdict
    if verdict.get("digest") != version.tags.get(lineage.VERDICT_DIGEST):
        raise GateError(
            f"The verdict stored with {version.uri} is not the one it was registered with",
            got=f"{str(verdict.get('digest'))[:16]}…",
            do="find out who changed the artifacts or tags; register the version again",
        )
    return sealed_verdict(verdict, file_digest=file_digest, override=override)


def _stored(version: Resolved, folder: Path) -> tuple[dict[str, object], str]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    from lwplugin.export.base import load_exported

    repository = get_artifact_repository(version.uri)
    sizes = {entry.path: int(entry.file_size or 0) for entry in repository.list_artifacts("export")}
    if sum(sizes.values()) > settings().max_model_bytes:
        raise RegistryError(
            f"{version.uri} is larger than allowed",
            got=f"{sum(sizes.values()):,} bytes",
            do="raise LWPLUGIN_MAX_MODEL_BYTES if you trust it",
        )
    file = Path(repository.download_artifacts("verdict.json", str(folder)))
    if file.stat().st_size > _VERDICT_BYTES:
        raise GateError("The stored verdict is too large to be one", got=f"{file.stat().st_size:,} bytes")
    verdict = json.loads(file.read_text(encoding="utf-8"))
    exported = Path(repository.download_artifacts("export", str(folder)))
    return verdict, load_exported(exported).digest
