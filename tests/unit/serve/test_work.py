from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from lwplugin.serve import queue
from lwplugin.serve.database import open_database
from lwplugin.serve.intent import Intent
from lwplugin.serve.work import Worker, _summary

RAN = json.dumps({"verdict": "fail", "targets": {"cpu": {}}})


@pytest.fixture
def worked(engine: Engine, intent: Callable[[int], Intent], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The one job after a worker has run it with this program."""

    def work(*program: str) -> dict[str, Any]:
        queue.settle(engine, [], [(intent(1), "test")])
        worker = Worker(engine, "w", logs=tmp_path / "logs", program=program)
        assert worker.work_once(threading.Event())
        return queue.latest_jobs(engine)[0]

    return work


def test_a_failed_gate_is_final(worked: Callable[..., dict[str, Any]]) -> None:
    job = worked(sys.executable, "-c", f"import sys; print({RAN!r}); sys.exit(1)")
    assert (job["state"], job["exit_code"]) == ("fail", 1)
    assert json.loads(job["result"])["verdict"] == "fail"


def test_a_program_that_breaks_is_no_failed_gate_and_is_tried_again(
    worked: Callable[..., dict[str, Any]],
) -> None:
    job = worked(sys.executable, "-c", "raise RuntimeError('no such module')")
    assert (job["state"], job["exit_code"], job["attempts"]) == ("queued", 1, 1)
    assert "no such module" in json.loads(job["result"])["error"]


def test_a_program_that_is_not_there_is_an_error_that_names_it(worked: Callable[..., dict[str, Any]]) -> None:
    job = worked("/no/such/program")
    assert job["state"] == "queued"
    assert json.loads(job["result"])["error"] == "/no/such/program: No such file or directory"


def test_a_job_does_not_see_the_services_secrets(
    engine: Engine, intent: Callable[[int], Intent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TEAM_URL", "TEAM_URL_FILE", "LWPLUGIN_SIGNING_KEY"):
        monkeypatch.setenv(name, "planted")
    queue.settle(engine, [], [(intent(1), "test")])
    program = (sys.executable, "-c", "import os, sys; sys.exit(' '.join(os.environ))")
    worker = Worker(engine, "w", logs=tmp_path, program=program, withheld=["TEAM_URL"])
    assert worker.work_once(threading.Event())
    seen = (tmp_path / "job-1-1.log").read_text().split()
    assert "LWPLUGIN_SIGNING_KEY" in seen  # a registration signs
    assert not {"TEAM_URL", "TEAM_URL_FILE"} & set(seen)


def test_of_a_large_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    os.truncate(log, 2**36)  # takes no room
    with log.open("ab") as end:
        end.write(b"\nout of memory\n")
    assert _summary(tmp_path / "none", log, 2)["error"].endswith("out of memory")


def test_a_disk_that_takes_no_files_is_the_jobs_error(
    engine: Engine, intent: Callable[[int], Intent], tmp_path: Path
) -> None:
    queue.settle(engine, [], [(intent(1), "test")])
    (tmp_path / "logs").write_text("no folder")
    worker = Worker(engine, "w", logs=tmp_path / "logs" / "of-jobs", program=(sys.executable, "-c", "pass"))
    assert worker.work_once(threading.Event())
    (job,) = queue.latest_jobs(engine)
    assert (job["state"], job["attempts"]) == ("queued", 1)
    assert "of-jobs: Not a directory" in json.loads(job["result"])["error"]


def test_a_worker_that_cannot_reach_the_database_ends_its_job_before_another_may_start_it(
    tmp_path: Path, intent: Callable[[int], Intent]
) -> None:
    file, lease_s = tmp_path / "serve.db", 2.0
    engine = open_database(f"sqlite:///{file}")
    queue.settle(engine, [], [(intent(1), "test")])
    program = (sys.executable, "-c", f"import os, time; open({str(tmp_path / 'ran')!r}, 'w'); time.sleep(60)")
    worker = Worker(engine, "w", logs=tmp_path / "logs", program=program, lease_s=lease_s)
    began = time.monotonic()
    thread = threading.Thread(target=worker.work_once, args=(threading.Event(),), daemon=True)
    thread.start()
    while not (tmp_path / "ran").exists():
        time.sleep(0.01)
    engine.dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE lwplugin_jobs RENAME TO away"
        )  # it answers with errors from now on
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 3 * lease_s
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO lwplugin_jobs")
    assert queue.latest_jobs(engine)[0]["state"] == "running"  # until the lease ends
