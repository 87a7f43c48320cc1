from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from lwplugin.serve.database import open_database
from lwplugin.serve.intent import Intent
from lwplugin.serve.rules import RuleBook

RECIPE = """\
model: models:/any@champion
data: {source: digits}
compress: [{quantize: {}}]
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.01}}
register: {alias: "light-{target}"}
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path}/serve.db")


@pytest.fixture
def book(tmp_path: Path) -> Callable[[str], RuleBook]:
    """A rules file from the text of its rules; their recipe is `recipe.yaml`."""

    def write(rules: str) -> RuleBook:
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        file = tmp_path / "serve.yaml"
        file.write_text(f"rules:\n{rules}")
        return RuleBook(file)

    return write


@pytest.fixture
def intent() -> Callable[[int], Intent]:
    def make(number: int) -> Intent:
        return Intent(
            key=f"{number:064d}",
            rule="r",
            model="net",
            version=number,
            recipe="/recipe.yaml",
            recipe_digest="d",
            engine="local",
        )

    return make
