from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from lwplugin.serve import queue
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
