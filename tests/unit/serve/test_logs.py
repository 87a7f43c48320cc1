from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from lwplugin.serve import logs, queue
from lwplugin.serve.intent import Intent
from lwplugin.serve.rules import RuleBook
from lwplugin.serve.service import Service

DAY_S = 86_400.0
RULE = "  - {name: r, when: {registered: true}, run: recipe.yaml}\n"


def write(folder: Path, job: int, attempt: int, *, days: float) -> None:
    for file in logs.files_of(folder, job, attempt):
        file.parent.mkdir(exist_ok=True)
        file.write_text("said")
        then = time.time() - days * DAY_S
        os.utime(file, (then, then))


def left(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_what_is_old_goes_and_what_runs_stays(tmp_path: Path) -> None:
    write(tmp_path, 1, 1, days=40)
    write(tmp_path, 2, 1, days=40)
    write(tmp_path, 2, 2, days=1)
    write(tmp_path, 3, 1, days=40)
    (tmp_path / "job-notes.txt").touch()
    assert logs.forget(tmp_path, keep_s=30 * DAY_S, most=10, running=lambda: {3}) == 4
    kept = {"job-2-2.json", "job-2-2.log", "job-3-1.json", "job-3-1.log", "job-notes.txt"}
    assert left(tmp_path) == kept
    os.utime(tmp_path / "job-3-1.log")  # its program still speaks
    assert logs.forget(tmp_path, keep_s=30 * DAY_S, most=10, running=set) == 0


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for job in range(1, 6):
        write(tmp_path, job, 1, days=10 - job)
    assert logs.forget(tmp_path, keep_s=30 * DAY_S, most=2, running=lambda: {1}) == 4
    assert left(tmp_path) == {f"job-{job}-1.{kind}" for job in (1, 4, 5) for kind in ("json", "log")}
    assert logs.forget(tmp_path / "absent", keep_s=0, most=0, running=set) == 0


def test_the_service_forgets_without_a_registry(
    engine: Engine, intent: Callable[[int], Intent], book: Callable[[str], RuleBook], tmp_path: Path
) -> None:
    queue.settle(engine, [], [(intent(1), "test"), (intent(2), "test")])
    job = queue.claim(engine, "somebody", 600)
    assert job is not None
    folder = tmp_path / "logs"
    write(folder, job.id, 1, days=2)
    write(folder, 7, 1, days=2)
    service = Service(
        engine,
        book(RULE),
        logs=folder,
        tracking_uri="http://127.0.0.1:9",
        workers=0,
        reconcile_s=600,
        keep_logs_s=DAY_S,
    )
    (forgets,) = [t for t in service._threads if t.name == "forget"]
    forgets.start()
    deadline = time.monotonic() + 10
    while "job-7-1.log" in left(folder) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    service._stop.set()
    forgets.join(10)
    assert left(folder) == {f"job-{job.id}-1.json", f"job-{job.id}-1.log"}
