from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lwplugin.artifact import LOCKS, Store
from lwplugin.lock import discard, locked


def test_one_at_a_time_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    file, inside = tmp_path / "locks" / "key", tmp_path / "inside"

    def enter(_: int) -> None:
        for _ in range(60):
            with locked(file):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # raises where somebody else is in
                time.sleep(0.001)
                inside.unlink()
            discard(file)  # as a sweep does at any moment

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(enter, range(6)))
    assert list(file.parent.iterdir()) == []


def test_who_waits_is_told_once_and_goes_in(tmp_path: Path) -> None:
    file, told, waits = tmp_path / "key", [], threading.Event()

    def wait() -> None:
        told.append("waits")
        waits.set()

    def second() -> None:
        with locked(file, wait=wait):
            told.append("in")

    with locked(file):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        assert told == ["waits"]
        assert not discard(file)
    thread.join(10)
    assert told == ["waits", "in"]
    assert not file.exists()


def test_a_killed_holder_leaves_a_file_that_the_sweep_takes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from lwplugin.lock import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / LOCKS / "key"
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.exists()
    store = Store(tmp_path)
    assert store.sweep(older_than_s=3600) == 0
    assert store.sweep(older_than_s=0) == 1
    assert not file.exists()


def test_an_error_inside_lets_the_next_one_in(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "key"):
        raise KeyError
    with locked(tmp_path / "key"):
        pass
