"""`lwplugin docs`: the documents that come with the package, so that a hint can name one wherever it was installed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import lwplugin
from lwplugin.cli.output import json_option, only_json, table, write_json
from lwplugin.errors import LwpluginError, did_you_mean

_README = "README.md"


@click.command("docs", help="List the documents that come with lwplugin, or show NAME, as Markdown.")
@click.argument("name", required=False)
@json_option
def docs_command(name: str | None, as_json: bool) -> int:
    with only_json(as_json) as out:
        known = documents()
        if name is None:
            titles = {each: _title(file) for each, file in known.items()}
            if as_json:
                write_json(titles, out)
            else:
                click.echo(table([("name", "about"), *titles.items()]))
            return 0
        if name not in known:
            raise LwpluginError(f"No document is called '{name}'", do=did_you_mean(name, known))
        text = known[name].read_text(encoding="utf-8")
        if as_json:
            write_json({"name": name, "text": text}, out)
        elif sys.stdout.isatty():
            click.echo_via_pager(text)
        else:
            click.echo(text, nl=False)
        return 0


def documents() -> dict[str, Path]:
    """Name → file: `docs/` (in a checkout beside the package), each room's README, and each step's as `step-…`."""
    package = Path(lwplugin.__file__).parent
    pages, steps = (
        inside if (inside := package / folder).is_dir() else package.parent / folder
        for folder in ("docs", "components")
    )
    found = {file.stem: file for file in pages.glob("*.md")}
    found |= {file.parent.name: file for file in package.glob(f"*/{_README}")}
    found |= {f"step-{file.parent.name}": file for file in steps.glob(f"*/{_README}")}
    return dict(sorted(found.items()))


def _title(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")
