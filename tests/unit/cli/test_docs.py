"""Hints must work for who has only the installed package: they name commands and packaged documents, no paths."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lwplugin.cli import COMMANDS, app, invoke
from lwplugin.cli.docs import documents

ROOT = Path(__file__).parents[3]
_WRITES_READMES = {"readme.py", "docs.py"}


def said() -> Iterator[tuple[str, str]]:
    """(where, text) of every string that is no docstring: what a user can get to see."""
    for folder in ("lwplugin", "components", "pipelines"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name in _WRITES_READMES:
                continue
            tree = ast.parse(file.read_text(encoding="utf-8"))
            silent = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value


def test_no_hint_names_a_file_of_the_repository() -> None:
    paths = re.compile(r"\b(docs|examples|charts|benchmarks)/\w|\bREADME|prefect\.yaml")
    assert [(where, text) for where, text in said() if paths.search(text)] == []


def test_commands_and_documents_that_hints_name_exist() -> None:
    named = [(where, m) for where, text in said() for m in re.findall(r"`lwplugin ([\w-]+)(?: (\w+))?", text)]
    assert len(named) > 10
    assert [(where, name) for where, (name, _) in named if name not in COMMANDS] == []
    shown = [(where, document) for where, (name, document) in named if name == "docs"]
    assert len(shown) > 3
    assert [(where, name) for where, name in shown if name not in documents()] == []


def test_docs_lists_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["docs", "--json"]) == 0
    titles = json.loads(capsys.readouterr().out)
    assert titles["serve"] == "Registry events"
    assert {"prune", "agent", "policy", "step-gate"} <= set(titles)
    assert all(titles.values())
    assert invoke(["docs", "serve"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    assert invoke(["docs", "serv"]) == 2
    assert "did you mean 'serve'?" in capsys.readouterr().err


def pages() -> Iterator[tuple[Path, str]]:
    for folder in (".", "docs", "lwplugin", "components", "examples", "charts"):
        for page in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md")):
            yield page, page.read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    dead = []
    for page, text in pages():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_commands_in_documents_have_the_options_that_are_shown() -> None:
    root = click.Context(app)
    wrong, seen = [], 0
    for page, text in pages():
        for name, rest in re.findall(r"lwplugin ([a-z][a-z-]+)([^`#|\n]*)", text):
            command = app.get_command(root, name)
            if command is None or isinstance(command, click.Group) or command.context_settings:
                continue
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                seen += 1
                if option not in known:
                    wrong.append(f"{page.relative_to(ROOT)}: {name} {option}")
    assert seen > 40
    assert wrong == []
