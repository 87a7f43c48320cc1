"""The chart's README.md, written from values.yaml and its `# --` comments: python charts/readme.py"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "lwplugin"
HEAD = """\
# The lwplugin chart

The service that turns an MLflow registry's events into compression runs (`lwplugin serve`): a Deployment that receives
signed webhooks and reconciles, and a CronJob that looks for what both missed. It depends on no other chart.

    kubectl create secret generic lwplugin-webhook --from-literal=secret="$(openssl rand -hex 32)"
    helm install lwplugin charts/lwplugin \\
        --set mlflow.trackingUri=http://mlflow.mlflow.svc:5000 \\
        --set webhook.existingSecret=lwplugin-webhook \\
        --set store.existingClaim=lwplugin-store \\
        --set-file 'config.files.serve\\.yaml=serve.yaml' \\
        --set-file 'config.files.fashion\\.yaml=fashion.yaml'

The [rules](../../docs/serve.md) and what they name lie beside each other, so a rule says `run: fashion.yaml`. Without
rules the service shows its pages and starts nothing.

Secrets are only ever named, never written into values. Containers run as uid 10001, without privileges, on a read-only
root. An unknown key is an error. Several replicas need `database.existingSecret` (PostgreSQL). Every pod that uses
`store.existingClaim` must be able to mount it: ReadWriteMany, or one node.

| value | default | what it does |
|---|---|---|
"""


def readme() -> str:
    """Markdown: a row for every value."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    said = dict(_comments(text))
    rows = [
        f"| `{path}` | `{json.dumps(value)}` | {said.get(path, '')} |"
        for path, value in _leaves(yaml.safe_load(text))
    ]
    return HEAD + "\n".join(rows) + "\n"


def _leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{before}{key}"
        if isinstance(value, dict) and value and path not in ("config.files", "resources"):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """(dotted key, the comment above it); a comment above a group stands for its first value."""
    path: list[tuple[int, str]] = []
    said = ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("# -- "):
            said = bare.removeprefix("# -- ")
        elif bare and not bare.startswith("#") and ":" in bare:
            indent = len(line) - len(line.lstrip())
            path = [entry for entry in path if entry[0] < indent] + [(indent, bare.split(":")[0])]
            if said:
                yield ".".join(name for _, name in path), said
            said = ""


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme(), encoding="utf-8")
