"""Tests marked ``toolchain(name)`` run where that environment is installed; ``g++`` stands for long compilations."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [(item, mark) for item in items if (mark := item.get_closest_marker("toolchain"))]
    if not marked or os.environ.get("LWPLUGIN_REQUIRE_TOOLCHAINS"):
        return
    from lwplugin.toolchain import TOOLCHAINS, find

    installed = {
        name: name in TOOLCHAINS and find(name) is not None for name in {mark.args[0] for _, mark in marked}
    }
    for item, mark in marked:
        if not installed[mark.args[0]]:
            item.add_marker(pytest.mark.skip(reason=f"needs {mark.args[0]}: make toolchain-check"))
