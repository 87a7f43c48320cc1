"""Runs a leased job as a process of its own, keeps the lease, and writes down how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from lwplugin import run_context, tracing
from lwplugin.log import log
from lwplugin.serve.logs import files_of
from lwplugin.serve.queue import Job, Tell, claim, finish, give_back, nobody, renew

LEASE_S = 60.0
_LWPLUGIN = (sys.executable, "-c", "from lwplugin.cli import main; main()")
# Isolated and without site-packages: it starts in milliseconds, and what it becomes starts afresh.
_TIE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("tied.py")))
_RESULT_BYTES = 4 * 2**20
_KILL_AFTER_S = 10.0
_LEASE_SHARE = 0.6  # of a lease that could not be renewed, after which its work ends
EXIT_ERROR = 2
_TAIL = 2000


def command_of(job: Job, program: Sequence[str], tracking_uri: str | None) -> list[str]:
    """`lwplugin run RECIPE --model models:/net/3 --engine local --quiet --json`."""
    command = [*(program or _LWPLUGIN), "run", job.recipe, "--model", f"models:/{job.model}/{job.version}"]
    if job.engine != "local":
        command += ["--engine", job.engine]
    if tracking_uri is not None:
        command += ["--tracking-uri", tracking_uri]
    return [*command, "--quiet", "--json"]


class Worker:
    """One thread's loop: claim, run, finish, until it is told to stop.

    ``withheld``: secrets of the service, which no job gets to see: it may run a model's own code.
    """

    def __init__(
        self,
        engine: Engine,
        owner: str,
        *,
        logs: Path,
        program: Sequence[str] = (),
        tracking_uri: str | None = None,
        lease_s: float = LEASE_S,
        ended: Callable[[str, float], None] = lambda state, seconds: None,
        tell: Tell = nobody,
        withheld: Iterable[str] = (),
    ) -> None:
        self._engine, self._owner, self._logs, self._program = engine, owner, logs, program
        self._tracking_uri, self._lease_s, self._ended, self._tell = tracking_uri, lease_s, ended, tell
        self._withheld = {name for secret in withheld for name in (secret, f"{secret}_FILE")}

    def work_once(self, stop: threading.Event) -> bool:
        """One job; False where none is due. Raises what the database raises."""
        job = claim(self._engine, self._owner, self._lease_s, self._tell)
        if job is None:
            return False
        about: dict[str, Any] = {
            "job": job.id,
            "model": job.model,
            "version": job.version,
            "attempt": job.attempts,
        }
        log("job started", rule=job.rule, **about)
        began = time.monotonic()
        out, err = files_of(self._logs, job.id, job.attempts)
        result: dict[str, Any] | None = None
        with tracing.span("job", rule=job.rule, **about):
            try:
                code = self._run(job, out, err, stop)
            except OSError as error:  # a full disk, a folder of somebody else's, no more processes
                code, result = (
                    EXIT_ERROR,
                    {"error": f"not started: {error.filename or 'a process'}: {error.strerror}"},
                )
        seconds = time.monotonic() - began
        if code is None:
            log("job left", **about)
            return True
        result = result or _summary(out, err, code)
        text, judged = json.dumps(result), "verdict" in result
        state = finish(self._engine, job, self._owner, code, text, self._tell, judged=judged)
        log("job ended", state=state, exit_code=code, seconds=round(seconds, 1), **about)
        self._ended(state or "lost", seconds)
        return True

    def _run(self, job: Job, out: Path, err: Path, stop: threading.Event) -> int | None:
        """The exit code; None where the job is somebody else's now."""
        command = [*_TIE, str(os.getpid()), *command_of(job, self._program, self._tracking_uri)]
        renewed = time.monotonic()
        self._logs.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            what = {"job": str(job.id), "rule": job.rule, "model": f"models:/{job.model}/{job.version}"}
            given = {name: value for name, value in os.environ.items() if name not in self._withheld}
            about = {"LWPLUGIN_LOG": "json", **run_context.for_child(**what), **tracing.for_child()}
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                env={**given, **about},
            )
        renew_at = renewed + self._lease_s / 3
        while True:
            try:
                return process.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
            if stop.is_set():
                _end(process)
                give_back(self._engine, job, self._owner)
                return None
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + self._lease_s / 3
                kept = self._keep(job)
                renewed = now if kept else renewed
                # Whoever cannot say that it still works must not: another replica may be at it soon.
                if kept is False or now >= renewed + _LEASE_SHARE * self._lease_s:
                    _end(process)
                    return None

    def _keep(self, job: Job) -> bool | None:
        """None where the database does not answer."""
        try:
            return renew(self._engine, job, self._owner, self._lease_s)
        except Exception:
            log("lease not renewed", error=True, job=job.id)
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """The job and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            continue


def _summary(out: Path, err: Path, code: int) -> dict[str, Any]:
    """Verdict and registered versions of a run; the end of its log where it says neither."""
    try:
        if out.stat().st_size <= _RESULT_BYTES:
            run = json.loads(out.read_text(encoding="utf-8"))
            registered = [(t.get("registration") or {}).get("uri") for t in run["targets"].values()]
            return {"verdict": run["verdict"], "registered": [uri for uri in registered if uri]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {"error": _tail(err).strip() or f"exit code {code}"}


def _tail(file: Path) -> str:
    """Its end only: a log may be larger than this process."""
    try:
        with file.open("rb") as log_:
            log_.seek(max(0, file.stat().st_size - _TAIL))
            return log_.read(_TAIL).decode("utf-8", "replace")
    except OSError:
        return ""
