"""`lwplugin show`: what a directory of ours holds, read from its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from lwplugin.cli.output import json_option, only_json, write_json
from lwplugin.errors import ModelError

# In the order in which a directory is asked.
_KINDS = {
    "model.json": "bundle",
    "export.json": "exported model",
    "comparison.json": "comparison",
    "verdict.json": "verdict",
    "report.json": "report",
    "registration.json": "registration",
}


@click.command("show", help="Tell what PATH holds: a bundle, an exported model, a comparison, a verdict, …")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@json_option
def show_command(path: Path, as_json: bool) -> int:
    with only_json(as_json) as out:
        kind, document = _read(path)
        if as_json:
            write_json({"kind": kind, "content": document}, out)
            return 0
        click.echo(f"{kind} in {path}")
        lines = _bundle(document) if kind == "bundle" else _plain(document)
        for name, value in lines:
            click.echo(f"  {name}: {value}")
    return 0


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    for place in (path, path / "bundle", path / "export"):
        for name, kind in _KINDS.items():
            file = place if place.name == name else place / name
            if file.is_file():
                try:
                    document = json.loads(file.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise ModelError(f"{file} is no JSON", got=error) from None
                if isinstance(document, dict):
                    return kind, document
    raise ModelError(
        "Nothing of ours is there", got=path, do=f"give a directory with one of {', '.join(_KINDS)}"
    )


def _bundle(document: dict[str, Any]) -> list[tuple[str, Any]]:
    source = document.get("source") or {}
    changes = document.get("changes") or {}
    lines: list[tuple[str, Any]] = [
        ("source", source.get("uri", "not from a registry")),
        ("changed modules", len(changes.get("modules", {}))),
    ]
    for entry in document.get("history", ()):
        metrics = ", ".join(f"{key} {value:.6g}" for key, value in (entry.get("metrics") or {}).items())
        lines.append((f"{entry['step']} ({entry.get('method')})", metrics or "no metrics"))
    return lines


def _plain(document: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in document.items() if isinstance(value, str | int | float | bool)]
