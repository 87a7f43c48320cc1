"""Tests that need a CUDA GPU, and the page on which they write what they saw (`make gpu-check`)."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from gpu_notes import Saw

PAGE = "LWPLUGIN_GPU_PAGE"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU here"))


@pytest.fixture(scope="session")
def _rows() -> Iterator[list[tuple[str, str]]]:
    rows: list[tuple[str, str]] = []
    yield rows
    if PAGE in os.environ and rows:
        Path(os.environ[PAGE]).write_text(_page(rows), encoding="utf-8")


@pytest.fixture
def saw(_rows: list[tuple[str, str]]) -> Saw:
    """``saw(what, figure)``: one line of the page."""

    def note(what: str, figure: str) -> None:
        _rows.append((what, figure))

    return note


def _page(rows: list[tuple[str, str]]) -> str:
    from lwplugin.export.tensorrt_engine import driver_version

    head = {
        "GPU": torch.cuda.get_device_name(),
        "driver": driver_version() or "unknown",
        "torch": torch.__version__,
        **{name: _version(name) for name in ("onnxruntime", "tensorrt", "tensorrt-rtx-cu13")},
        "Python": platform.python_version(),
        "day": time.strftime("%Y-%m-%d"),
    }
    lines = [
        "# What the GPU tests saw",
        "",
        "| | |",
        "|---|---|",
        *(f"| {k} | {v} |" for k, v in head.items()),
    ]
    lines += ["", "| what | seen |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows), ""]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
