"""Real servers for the tests: MLflow with proxied artifacts on sqlite, and the same on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POSTGRES = Path("/usr/lib/postgresql/15/bin")
START_S = 300
PASSWORD = "hunter2"  # accepted by a server that trusts the loopback; tests look for it where it must not be

QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer within {START_S} s:\n{log.read_text()[-4000:]}")


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    # MLflow starts uvicorn by its bare name, as in an activated environment.
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **QUIET, **environment},
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def start_mlflow(directory: Path, backend: str) -> tuple[str, subprocess.Popen[bytes], Path]:
    port = free_port()
    log = directory / "server.log"
    arguments = f"--host 127.0.0.1 --port {port} --workers 1 --serve-artifacts"
    command = [sys.executable, "-m", "mlflow", "server", *arguments.split(), "--backend-store-uri", backend]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    return f"http://127.0.0.1:{port}", start(command, log), log


@pytest.fixture(autouse=True, scope="session")
def _quiet_mlflow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


class Servers:
    """What a test starts itself; fixtures, so that no test has to import another file of the tests."""

    password = PASSWORD
    free_port = staticmethod(free_port)
    start = staticmethod(start)
    wait_for = staticmethod(wait_for)
    stop = staticmethod(stop)


@pytest.fixture(scope="session")
def servers() -> type[Servers]:
    return Servers


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; creating its tables takes seconds, copying it none.

    It remembers the directory it was made in: what any copy's default experiment logs lands beside it.
    """
    import mlflow

    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)
        mlflow.MlflowClient(f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture
def sqlite_uri(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of its own for one test."""
    shutil.copy(sqlite_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def postgres_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty database of a PostgreSQL started for this session."""
    if not POSTGRES.is_dir():
        if os.environ.get("LWPLUGIN_REQUIRE_SERVERS"):
            pytest.fail(
                f"LWPLUGIN_REQUIRE_SERVERS is set and {POSTGRES} is missing: apt-get install postgresql"
            )
        pytest.skip(f"{POSTGRES} is missing: apt-get install postgresql")
    # Not under pytest's directory: the user postgres may not enter it.
    root = Path(subprocess.check_output(["mktemp", "-d", "/tmp/lwplugin-postgres-XXXXXX"], text=True).strip())
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(root, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data, port = root / "data", free_port()
    control = [*as_user, str(POSTGRES / "pg_ctl"), "-D", str(data)]
    settings = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
    quiet = {"check": True, "cwd": root, "stdout": subprocess.DEVNULL}
    try:
        initdb = [str(POSTGRES / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run([*as_user, *initdb], **quiet)  # type: ignore[call-overload]
        log = str(root / "log")
        start_it = [*control, "-w", "-t", str(START_S), "-o", settings, "-l", log, "start"]
        subprocess.run(start_it, **quiet)  # type: ignore[call-overload]
        createdb = [
            str(POSTGRES / "createdb"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "postgres",
            "mlflow",
        ]
        subprocess.run([*as_user, *createdb], **quiet)  # type: ignore[call-overload]
        yield f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/mlflow"
    finally:
        subprocess.run(
            [*control, "-m", "immediate", "stop"], check=False, cwd=root, stdout=subprocess.DEVNULL
        )
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on sqlite that proxies artifacts."""
    directory = tmp_path_factory.mktemp("server")
    url, process, log = start_mlflow(directory, f"sqlite:///{directory}/mlflow.db")
    try:
        wait_for(f"{url}/health", process, log)
        yield url
    finally:
        stop(process)


@pytest.fixture(scope="session")
def postgres_server_uri(postgres_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server on PostgreSQL that proxies artifacts."""
    url, process, log = start_mlflow(tmp_path_factory.mktemp("postgres-server"), postgres_uri)
    try:
        wait_for(f"{url}/health", process, log)
        yield url
    finally:
        stop(process)


@pytest.fixture(scope="session")
def main_job_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A registry with the digits parent, trained for two epochs: what a process needs to find it.

    FOLDER is where relative paths start.
    """
    folder = tmp_path_factory.mktemp("main-job")
    script = ROOT / "examples" / "digits" / "train_and_register.py"
    environment = {
        **os.environ,
        "FOLDER": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), "--epochs", "2"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture
def folder(main_job_environment: dict[str, str]) -> Path:
    return Path(main_job_environment["FOLDER"])
