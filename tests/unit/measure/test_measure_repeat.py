"""The same file measured against itself must not look slower, whatever else the machine does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lwplugin.measure import measure

_SPIN = "import os\nos.sched_setaffinity(0, {CPU})\nwhile True: sum(range(10000))"


@contextmanager
def busy_cpu() -> Iterator[None]:
    """Keeps the last CPU fully busy."""
    code = _SPIN.replace("CPU", str(max(os.sched_getaffinity(0))))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("disturbance", [nothing, busy_cpu])
def test_no_change_is_not_a_regression(disturbance: Any, exports: dict[str, Path], data: Any) -> None:
    called_slower = 0
    with disturbance():
        for _ in range(4):
            found = measure(
                exports["fast"],
                data,
                baseline=exports["fast"],
                min_seconds=0.2,
                max_seconds=0.4,
                max_examples=8,
            )
            slower = found.speedup.high is not None and found.speedup.high < 1
            called_slower += slower and not found.noisy
    assert called_slower <= 1
