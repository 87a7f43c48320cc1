from __future__ import annotations

from pathlib import Path

import lwplugin.components
import pytest
from lwplugin.components import installed_steps
from lwplugin.components.readme import readme


@pytest.mark.parametrize("name", installed_steps())
def test_the_readme_says_what_the_code_says(name: str) -> None:
    """Otherwise: python -m lwplugin.components.readme"""
    written = Path(lwplugin.components.__path__[0]) / name / "README.md"
    assert written.read_text(encoding="utf-8") == readme(name)
