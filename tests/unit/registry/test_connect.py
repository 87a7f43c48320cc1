from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lwplugin.errors import RegistryError
from lwplugin.registry.connect import connected
from lwplugin.registry.lineage import flat_params


def test_a_first_look_at_a_registry_says_one_line(tmp_path: Path) -> None:
    """MLflow's import sets the level of its loggers, and making a database is news to them."""
    code = "import sys, lwplugin.cli as c; sys.exit(c.invoke(['decisions', 'net']))"
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MLFLOW_TRACKING_URI": place},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: The registry at {place} has no model 'net': got an empty registry. "
        "Do: check the name, or MLFLOW_TRACKING_URI if this is the wrong registry.\n"
    )


def test_a_database_that_cannot_be_written_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with connected(place) as client:
        client.create_registered_model("net")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER no BEFORE INSERT ON registered_model_tags BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    caplog.clear()
    with (
        pytest.raises(RegistryError, match=r"refused: got \S+ full\. Do: check the tracking"),
        connected(place) as client,
    ):
        client.set_registered_model_tag("net", "a", "b")
    assert caplog.messages == []


class Proxy(BaseHTTPRequestHandler):
    """One that lets no large body through."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(413)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_files_that_a_proxy_does_not_take_are_an_error_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").write_text("x")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://ana:hunter2@127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(RegistryError, match="MLflow") as error, connected(address):
            HttpArtifactRepository(f"{address}/a").log_artifact(str(tmp_path / "file"))
    finally:
        server.shutdown()
    assert "413" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_settings_become_flat_params() -> None:
    nested = {"compress": [{"prune": {"macs": 0.5}}, {"quantize": {}}], "seed": 1, "odd?key": "x" * 900}
    flat = flat_params(nested)
    assert flat["compress.0.prune.macs"] == "0.5"
    assert flat["seed"] == "1"
    assert len(flat["odd_key"]) == 500


def test_importing_the_registry_costs_neither_mlflow_nor_torch() -> None:
    code = "import sys, lwplugin.registry as r; r.Resolved; print({'mlflow', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
