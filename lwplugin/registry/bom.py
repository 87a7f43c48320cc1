"""What a light version consists of, as a CycloneDX 1.6 machine-learning bill of materials. Pure but for hashing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lwplugin.artifact import digest_file, list_files
from lwplugin.registry import lineage
from lwplugin.registry.versions import Resolved

if TYPE_CHECKING:
    from lwplugin.gate.verdict import Verdict

FILE_NAME = "bom.cdx.json"
_NAMESPACE = uuid.UUID("9d5f4a51-3a5d-5c3e-9f0a-6a1f0e8f5c11")
_BOUND = "_high"


def bill_of_materials(
    directory: Path,
    *,
    name: str,
    parent: Resolved,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    verdict: Verdict,
    data_digest: str | None,
    signature: Mapping[str, Any] | None,
    version: str,
) -> dict[str, Any]:
    """JSON-able, valid against CycloneDX 1.6.

    ``directory``: the MLflow model directory, whose files are listed with their digests, and whose
    requirements.txt names the libraries that serve it. ``version``: of lwplugin. The version the registry will
    number is not known yet, so the content's digest stands in its place.
    """
    digest = tags[lineage.DIGEST]
    reference = f"model:{digest}"
    components = [*_files(directory), *_libraries(directory), *_data(data_digest)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "lwplugin", "version": version}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": reference,
                "name": name,
                "version": digest,
                "description": f"Light version of {parent.uri} for target {tags[lineage.TARGET]}.",
                "pedigree": {"ancestors": [_parent(parent, tags[lineage.PARENT_DIGEST])]},
                "modelCard": _card(metrics, verdict, data_digest, signature),
                "properties": [
                    {"name": key, "value": tags[key]}
                    for key in (
                        lineage.TARGET,
                        lineage.VERDICT,
                        lineage.VERDICT_DIGEST,
                        lineage.RECIPE_DIGEST,
                        lineage.OVERRIDE,
                    )
                    if key in tags
                ],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"], "dependsOn": []} for component in components),
        ],
    }


def _files(directory: Path) -> Iterator[dict[str, Any]]:
    for path, file in list_files(directory).items():
        yield {
            "type": "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": digest_file(file)}],
        }


def _libraries(directory: Path) -> Iterator[dict[str, Any]]:
    requirements = directory / "requirements.txt"
    for line in requirements.read_text(encoding="utf-8").split() if requirements.is_file() else ():
        name, pinned, version = line.partition("==")
        if pinned:
            purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version)}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _data(digest: str | None) -> Iterator[dict[str, Any]]:
    if digest is not None:
        yield {
            "type": "data",
            "bom-ref": f"data:{digest}",
            "name": "recipe data",
            "data": [{"type": "dataset", "name": "recipe data"}],
            "properties": [{"name": "lwplugin.data_digest", "value": digest}],
        }


def _parent(parent: Resolved, digest: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"parent:{parent.uri}",
        "name": parent.name,
        "version": parent.version,
        "purl": f"pkg:mlflow/{quote(parent.name, safe='')}@{quote(parent.version)}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _card(
    metrics: Mapping[str, float],
    verdict: Verdict,
    data_digest: str | None,
    signature: Mapping[str, Any] | None,
) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if data_digest is not None:
        parameters["datasets"] = [{"ref": f"data:{data_digest}"}]
    for part in ("inputs", "outputs"):
        entries = (signature or {}).get(part) or []
        formats = [{"format": _format(entry)} for entry in entries]
        if formats:
            parameters[part] = formats
    open_checks = [check.message for check in verdict.checks if check.status != "pass"]
    return {
        **({"modelParameters": parameters} if parameters else {}),
        "quantitativeAnalysis": {"performanceMetrics": _performance(metrics)},
        **({"considerations": {"technicalLimitations": open_checks}} if open_checks else {}),
    }


def _performance(metrics: Mapping[str, float]) -> Sequence[dict[str, Any]]:
    """The version's own numbers; ``p95_high_ms`` is the upper bound of ``p95_ms``."""
    found = []
    for name, value in metrics.items():
        if _BOUND in name:
            continue
        entry: dict[str, Any] = {"type": name, "value": f"{value:.12g}"}
        stem, _, unit = name.rpartition("_")
        bound = metrics.get(f"{stem}{_BOUND}_{unit}")
        if bound is not None:
            entry["confidenceInterval"] = {"upperBound": f"{bound:.12g}"}
        found.append(entry)
    return found


def _format(entry: Mapping[str, Any]) -> str:
    """
    >>> _format({"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 8]}})
    'float32[-1, 8]'
    """
    spec = entry.get("tensor-spec")
    if isinstance(spec, Mapping):
        return f"{spec.get('dtype')}{list(spec.get('shape', []))}"
    return str(entry.get("type", "unknown"))
