"""From an alias that somebody sets in MLflow to a light version in the registry, with nothing faked.

Secrets are planted wherever a run could meet one; afterwards everything that was written is searched for them.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import create_engine, inspect, text

ROOT = Path(__file__).parents[3]
RECIPE = """\
model: models:/digits-cnn@champion
data: {source: digits, test_fraction: 0.4}
compress: [{quantize: {method: int8, calibrator: minmax}}]
targets: [{name: edge-cpu, budget: {size_bytes: 400_000}}]
gate: {max_drop: {accuracy: 0.1}, no_faster: allow}
register: {alias: "light-{target}"}
"""
POLICY = """\
rules: [{name: edge, targets: edge-cpu, budget: {size_bytes: 400_000, p95_ms: 100}, max_drop: {accuracy: 0.1}}]
"""
NOTIFY = """\
notify: [{name: program, webhook: {url: "http://127.0.0.1:9/hook", secret_variable: HOOK_SECRET}}]
"""
TOKENS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws",
    "HF_TOKEN": "planted-hub",
    "HOOK_SECRET": "planted-hook",
    "LWPLUGIN_SIGNING_KEY_PASSWORD": "planted-key-password",
    "MLFLOW_TRACKING_PASSWORD": "planted-tracking",
    "MLFLOW_TRACKING_USERNAME": "someone",
}


@pytest.fixture
def planted(site: Any, secret: str) -> list[bytes]:
    """In the environment, a key file, two addresses with passwords, and the git remote of the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(TOKENS["LWPLUGIN_SIGNING_KEY_PASSWORD"].encode())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    registry = site.registry.uri.replace("://", "://me:planted-address@")
    site.environment |= {**TOKENS, "LWPLUGIN_SIGNING_KEY": pem.decode(), "MLFLOW_TRACKING_URI": registry}
    assert site.servers.password in site.database
    known = [*TOKENS.values(), secret, site.servers.password, "planted-address", "planted-remote"]
    known.remove("someone")
    return [value.encode() for value in known] + [pem.splitlines()[2]]


def _everything(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Every file, those in archives, and the rows of sqlite databases."""
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        yield str(file), file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                yield from ((f"{file}:{name}", archive.read(name)) for name in archive.namelist())
        if file.suffix == ".db":
            yield f"{file} dumped", "\n".join(sqlite3.connect(file).iterdump()).encode()


def _rows(database: str) -> bytes:
    engine = create_engine(database)
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        assert {"lwplugin_jobs", "lwplugin_deliveries", "lwplugin_notices"} <= set(tables)
        found = [list(connection.execute(text(f'SELECT * FROM "{table}"'))) for table in tables]
    engine.dispose()
    return repr(found).encode()


def test_an_alias_ends_in_a_light_version_that_meets_the_policy_and_holds_no_secret(
    site: Any, planted: list[bytes]
) -> None:
    site.rules("{models: digits-*, alias: champion}", program=False, recipe=RECIPE)
    rules = site.folder / "serve.yaml"
    rules.write_text(rules.read_text() + NOTIFY)
    script = [sys.executable, str(ROOT / "examples/digits/train_and_register.py"), "--epochs", "2"]
    plain = {**site.full_environment, "MLFLOW_TRACKING_URI": site.registry.uri}
    subprocess.run(script, cwd=site.folder, env=plain, check=True, capture_output=True)
    remote = "https://me:planted-remote@git.example/r.git"
    for command in ("git init -q", f"git remote add origin {remote}"):
        subprocess.run(command.split(), cwd=site.folder, check=True)
    client = site.registry.client
    client.delete_registered_model_alias("digits-cnn", "champion")
    replica = site.ready(site.serve("--reconcile-every", "3600"))
    site.wait(lambda: "lwplugin_registry_up 1.0" in replica.get("/metrics")[1])
    site.registry.hook(replica.hook_url)
    client.set_registered_model_alias("digits-cnn", "champion", "1")

    def ended() -> bool:
        metrics = replica.get("/metrics")[1]
        assert 'lwplugin_jobs{state="error"} 0.0' in metrics
        return 'lwplugin_jobs{state="pass"} 1.0' in metrics

    site.wait(ended, 180)
    light = client.get_model_version_by_alias("digits-cnn", "light-edge-cpu")
    assert light.tags["lwplugin.parent_version"] == "models:/digits-cnn/1"
    text_of_log = (site.folder / "store/serve/logs/job-1-1.log").read_text()
    lines = [json.loads(line) for line in text_of_log.splitlines() if line.startswith('{"at"')]
    assert {line.get("step") for line in lines} >= {"pull", "quantize", "gate", "register"}
    about = {("1", "r0", "models:/digits-cnn/1", client.get_run(light.run_id).data.tags["lwplugin.run"])}
    assert {(line["job"], line["rule"], line["model"], line["run"]) for line in lines} == about
    assert site.once()["queued"] == []  # what should exist does, and the light version starts nothing
    (site.folder / "policy.yaml").write_text(POLICY)
    check = [
        sys.executable,
        "-c",
        "from lwplugin.cli import main; main()",
        "check",
        "models:/digits-cnn",
        "--json",
    ]
    done = subprocess.run(check, cwd=site.folder, env=site.full_environment, capture_output=True, check=False)
    answer = json.loads(done.stdout)
    assert (done.returncode, len(answer["findings"])) == (0, 4), answer
    assert mlflow.MlflowClient(site.registry.backend).get_model_version("digits-cnn", light.version)

    site.wait(lambda: 'lwplugin_notices{channel="program",state="waiting"} 1.0' in replica.get("/metrics")[1])
    answers = [replica.get(path)[1] for path in ("/", "/jobs", "/notices", "/metrics", "/models/digits-cnn")]
    subprocess.run(["rm", "-rf", str(site.folder / ".git")], check=True)
    server = Path(site.registry.backend.removeprefix("sqlite:///")).parent
    written = [*_everything(site.folder, server), ("database", _rows(site.database))]
    written += [("answer", answer.encode()) for answer in answers] + [("check", done.stdout + done.stderr)]
    names = " ".join(name for name, _ in written)
    for part in (
        "model.sig",
        "bom.cdx.json",
        "report.html",
        "job-1-1.log",
        "manifest.json",
        "mlflow.db dumped",
    ):
        assert part in names
    assert [name for name, content in written if any(value in content for value in planted)] == []
