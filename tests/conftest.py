"""Tests marked ``toolchain(name)`` run where that environment is installed; ``g++`` stands for long compilations."""

from __future__ import annotations

import logging
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


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What the package logs, whatever a library in this process has done to logging before."""
    ours = ("lwplugin", *(name for name in logging.root.manager.loggerDict if name.startswith("lwplugin.")))
    for logger in map(logging.getLogger, ours):
        monkeypatch.setattr(logger, "disabled", False)
        monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    caplog.set_level(logging.WARNING, "lwplugin")
    return caplog
