"""An MLflow server that sends webhooks, a PostgreSQL database for the service, and replicas of the service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SECRET = "planted-webhook-secret"
RECIPE = """\
model: models:/any@champion
data: {source: digits}
compress: [{quantize: {}}]
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.01}}
register: {alias: "light-{target}"}
"""
# Stands for `lwplugin run`: writes one line when it begins and one when it ends.
PROGRAM = """\
import json, os, sys, time
folder, model = os.environ["FAKE_RUNS"], sys.argv[sys.argv.index("--model") + 1]
def note(what):
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{what} {model} {os.getpid()}\\n")
note("began")
time.sleep(float(os.environ.get("FAKE_SECONDS", "0.05")))
note("ended")
print(json.dumps({"verdict": "pass", "targets": {"edge-cpu": {"registration": {"uri": "models:/x/9"}}}}))
"""


@dataclass
class Registry:
    """The MLflow server, its address and database."""

    uri: str
    backend: str
    hooks: list[str] = field(default_factory=list)

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(self.uri)

    def hook(self, url: str) -> None:
        """Sends every event that can start something to this address, as a person sets it up."""
        from mlflow.entities.webhook import WebhookEvent

        events = ["model_version.created", "model_version_tag.set", "model_version_alias.created"]
        made = self.client.create_webhook(
            name=f"lwplugin-{uuid.uuid4().hex[:6]}",
            url=url,
            events=[WebhookEvent.from_str(event) for event in events],
            secret=SECRET,
        )
        self.hooks.append(made.webhook_id)

    def unhook(self) -> None:
        for hook in self.hooks:
            self.client.delete_webhook(hook)
        self.hooks.clear()

    def add(self, name: str, *aliases: str, client: Any = None) -> str:
        from mlflow.exceptions import MlflowException

        content = self.content if client is None else {"source": "/written/by/hand"}
        client = client or self.client
        with suppress(MlflowException):
            client.create_registered_model(name)
        version = client.create_model_version(name, **content).version
        for alias in aliases:
            client.set_registered_model_alias(name, alias, version)
        return str(version)

    @property
    def content(self) -> dict[str, str]:
        """A logged model without files: a server takes no version from an arbitrary place."""
        logged = self.client.create_logged_model("0", name="empty")
        return {"source": f"models:/{logged.model_id}", "model_id": logged.model_id}


@pytest.fixture(scope="session")
def _registry(
    servers: Any, tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[Registry]:
    import shutil

    from cryptography.fernet import Fernet

    folder = tmp_path_factory.mktemp("webhook-server")
    shutil.copy(sqlite_template, folder / "mlflow.db")
    backend, port, log = f"sqlite:///{folder}/mlflow.db", servers.free_port(), folder / "server.log"
    command = (
        f"{sys.executable} -m mlflow server --host 127.0.0.1 --port {port} --workers 1 --serve-artifacts"
    )
    process = servers.start(
        [
            *command.split(),
            "--backend-store-uri",
            backend,
            "--artifacts-destination",
            str(folder / "artifacts"),
        ],
        log,
        MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http,https",
        MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
        MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=Fernet.generate_key().decode(),
        MLFLOW_WEBHOOK_CACHE_TTL="0",
    )
    try:
        servers.wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield Registry(f"http://127.0.0.1:{port}", backend)
    finally:
        servers.stop(process)


@pytest.fixture
def registry(_registry: Registry) -> Iterator[Registry]:
    yield _registry
    _registry.unhook()


@pytest.fixture
def database(postgres_uri: str) -> Iterator[str]:
    """A PostgreSQL database of its own for one test."""
    import psycopg

    name = f"serve_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{postgres_uri.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Replica:
    """One `lwplugin serve` process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def hook_url(self) -> str:
        return f"{self.url}/webhooks/mlflow"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def post(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str]]:
        request = urllib.request.Request(self.hook_url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@dataclass
class Site:
    """A folder with rules, a fake program that counts its runs, and the replicas that share a database."""

    folder: Path
    registry: Registry
    database: str
    servers: Any
    environment: dict[str, str] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)

    def rules(self, *rules: str, program: bool = True, recipe: str = RECIPE) -> None:
        (self.folder / "recipe.yaml").write_text(recipe)
        (self.folder / "program.py").write_text(PROGRAM)
        head = f"command: [{sys.executable}, {self.folder}/program.py]\n" if program else ""
        lines = "".join(
            f"  - {{name: r{n}, when: {when}, run: recipe.yaml}}\n" for n, when in enumerate(rules)
        )
        (self.folder / "serve.yaml").write_text(f"{head}rules:\n{lines}")

    @property
    def full_environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "MLFLOW_TRACKING_URI": self.registry.uri,
            "LWPLUGIN_DATABASE_URL": self.database,
            "LWPLUGIN_WEBHOOK_SECRET": SECRET,
            "LWPLUGIN_STORE": str(self.folder / "store"),
            "FAKE_RUNS": str(self.folder),
            **self.environment,
        }

    def serve(self, *options: str, port: int | None = None) -> Replica:
        port = port or self.servers.free_port()
        log = self.folder / f"serve-{len(self.replicas)}.log"
        command = [sys.executable, "-c", "from lwplugin.cli import main; main()", "serve", "serve.yaml"]
        command += ["--host", "127.0.0.1", "--port", str(port), *options]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.full_environment, stdout=out, stderr=subprocess.STDOUT
            )
        replica = Replica(process, f"http://127.0.0.1:{port}", log)
        self.replicas.append(replica)
        return replica

    def ready(self, replica: Replica) -> Replica:
        """Answers, and has compared the registry with the rules once where there is a registry."""
        self.servers.wait_for(f"{replica.url}/readyz", replica.process, replica.log)
        if not self.environment.get("MLFLOW_TRACKING_URI"):
            self.wait(lambda: "lwplugin_registry_up 1.0" in replica.get("/metrics")[1])
        return replica

    def once(self) -> dict[str, Any]:
        """`lwplugin serve --reconcile-once`."""
        command = [sys.executable, "-c", "from lwplugin.cli import main; main()", "serve", "serve.yaml"]
        command += ["--reconcile-once", "--json"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.full_environment, stdout=subprocess.PIPE, check=True
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def runs(self, what: str = "ended") -> list[str]:
        """The models of the fake program's runs."""
        file = self.folder / "runs"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split()[1] for line in lines if line.startswith(what)]

    def processes(self) -> list[str]:
        """The process ids of the fake program's runs."""
        return [line.split()[2] for line in (self.folder / "runs").read_text().splitlines()]

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(replica.log.read_text()[-3000:] for replica in self.replicas)
                raise AssertionError(f"did not come true within {seconds} s\n{logs}")
            time.sleep(0.1)


@pytest.fixture
def site(registry: Registry, database: str, servers: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, registry, database, servers)
    yield made
    for replica in made.replicas:
        if replica.process.poll() is None:
            replica.process.kill()
            replica.process.wait(10)


@pytest.fixture
def secret() -> str:
    return SECRET
