"""A version that was registered against its verdict, and passes later.

Its own files stay as they are, for what was pulled from it must not change. The later verdict and report lie in its
run, under the digest; its tags say what holds now, and one of them what was overridden then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwplugin.errors import GateError, RegistryError
from lwplugin.registry import lineage, signing
from lwplugin.registry.turn import turn
from lwplugin.registry.versions import Resolved, resolve_with
from lwplugin.secret import secret
from lwplugin.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lwplugin.gate.verdict import Verdict

_FOLDER, _FILE = "verdicts", "verdict.json"
_KEPT = (lineage.VERDICT, lineage.VERDICT_DIGEST, lineage.RECIPE_DIGEST)


def set_right(
    client: MlflowClient, name: str, version: str, seal: Verdict, tags: Mapping[str, str], report: Path | None
) -> None:
    """Makes ``tags`` those of a version that an override brought in and that passes now; others stay as they are.

    The verdict is stored first and the override's tag goes last, so that after a crash the next call goes on.
    """
    if not seal.passed:
        return
    with turn(client, name):
        found = resolve_with(client, name, version=version)
        if not _concerned(found, seal) or found.run_id is None:
            return
        _store(client, found.run_id, seal, report)
        if lineage.OVERRIDDEN not in found.tags:
            before = {key.removeprefix(lineage.PREFIX): found.tags.get(key) for key in _KEPT}
            note = json.dumps({"reason": found.tags[lineage.OVERRIDE], **before})
            client.set_model_version_tag(name, version, lineage.OVERRIDDEN, note)
        first = {key: value for key, value in tags.items() if key not in (*_KEPT, lineage.OVERRIDE)}
        for key, value in (*first.items(), *((key, tags[key]) for key in reversed(_KEPT))):
            if found.tags.get(key) != value:
                client.set_model_version_tag(name, version, key, value)
        if lineage.OVERRIDE in found.tags:
            client.delete_model_version_tag(name, version, lineage.OVERRIDE)


def later_verdict(version: Resolved, folder: Path) -> dict[str, Any] | None:
    """What its tags name in place of the verdict among its files; None where no override was set right.

    Raises RegistryError where LWPLUGIN_TRUSTED_KEYS asks for a signature that is not there. Runs inside a connection.
    """
    import mlflow

    if lineage.OVERRIDDEN not in version.tags or version.run_id is None:
        return None
    digest = version.tags.get(lineage.VERDICT_DIGEST, "")
    place = Path(
        mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=f"{_FOLDER}/{digest}", dst_path=str(folder)
        )
    )
    if settings().trusted_keys is not None:
        try:
            signing.verify(place, about="it")
        except RegistryError as error:
            raise RegistryError(
                f"The later verdict of {version.uri} does not carry a good signature",
                got=error.got or error.what,
                do=f"run its recipe again where {signing.SIGNING_KEY} is set",
            ) from None
    try:
        found: dict[str, Any] = json.loads((place / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GateError(f"The later verdict of {version.uri} cannot be read", got=error) from None
    return found


def _concerned(found: Resolved, seal: Verdict) -> bool:
    """Brought in by an override, or once; then each new verdict counts, and the same one may want a signature."""
    if lineage.OVERRIDE in found.tags:
        return True
    if lineage.OVERRIDDEN not in found.tags:
        return False
    return found.tags.get(lineage.VERDICT_DIGEST) != seal.digest or secret(signing.SIGNING_KEY) is not None


def _store(client: MlflowClient, run_id: str, seal: Verdict, report: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="lwplugin-verdict-") as scratch:
        place = Path(scratch)
        (place / _FILE).write_text(seal.model_dump_json(indent=2), encoding="utf-8")
        signing.sign(place)
        client.log_artifacts(run_id, scratch, artifact_path=f"{_FOLDER}/{seal.digest}")
    if report is not None:
        client.log_artifacts(run_id, str(report), artifact_path=f"report-{seal.digest[:12]}")
