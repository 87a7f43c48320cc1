"""What must agree before anything is registered: the verdict, its file, and the bundle's parent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.errors import RegistryError
from lwplugin.gate.verdict import Verdict
from lwplugin.registry.versions import Resolved


def sealed_verdict(
    verdict: Verdict | Mapping[str, Any], *, file_digest: str, override: str | None
) -> Verdict:
    """The verdict, intact and about this file, and a pass unless `override` says why not.

    Raises RegistryError, GateError where the verdict was edited.
    """
    if override is not None and not override.strip():
        raise RegistryError("An override needs a reason", got="an empty one", do="say why in a few words")
    checked = verdict if isinstance(verdict, Verdict) else Verdict.model_validate(dict(verdict))
    checked.verify()
    if checked.candidate_digest != file_digest:
        raise RegistryError(
            "The verdict is about another file",
            got=f"verdict {str(checked.candidate_digest)[:16]}…, exported file {file_digest[:16]}…",
            do="measure and gate this file",
        )
    if not checked.passed and override is None:
        raise RegistryError(
            f"The gate's verdict is '{checked.status}'",
            got=checked.reason,
            do="compress less, relax the gate, or register with an explicit override reason",
        )
    return checked


def parent_of(bundle: Path, parent: Resolved) -> str:
    """The digest of the parent the bundle was made from. Raises RegistryError for another version."""
    source = _json(bundle / "model.json").get("source")
    if not isinstance(source, dict) or source.get("uri") != parent.uri:
        raise RegistryError(
            "The bundle was made from another model",
            got=source.get("uri") if isinstance(source, dict) else "a model that is in no registry",
            do=f"pull {parent.uri} and compress that",
        )
    return str(source["digest"])


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"'{file.name}' cannot be read", got=error, do="run the step again") from None
    if not isinstance(content, dict):
        raise RegistryError(
            f"'{file.name}' is no JSON object", got=type(content).__name__, do="run the step again"
        )
    return content
