"""What is sent to Kubeflow Pipelines' API; the server here only writes it down."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from lwplugin.pipelines.kubeflow.compile import Deployment
from lwplugin.pipelines.kubeflow.submit import submit
from lwplugin.pipelines.plan import Plan, make_plan

from lwplugin.errors import LwpluginError
from lwplugin.recipe_file import parse_recipe
from lwplugin.registry import Resolved

RECIPE = """\
model: models:/net@champion
data: {source: digits}
compress: [{prune: {method: taylor, macs: 0.5}}]
targets: [{name: edge}]
gate: {max_drop: {accuracy: 0.1}}
"""


class Recorder(BaseHTTPRequestHandler):
    sent: list[tuple[str, Any]]

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer({"multi_user": False} if "healthz" in self.path else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.sent.append((self.path, body))
        ids = {"experiment_id": "e1", "run_id": "r1", "recurring_run_id": "rr1"}
        self._answer({**ids, "display_name": body.get("display_name")})

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    sent: list[tuple[str, Any]] = []
    handler = type("Handler", (Recorder,), {"sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", sent
        served.shutdown()


@pytest.fixture(scope="module")
def plan() -> Plan:
    parent = Resolved(name="net", version="2", uri="models:/net/2", source="models:/m-1")
    return make_plan(parse_recipe(RECIPE), parent)


def test_a_run_is_sent_whole(plan: Plan, server: tuple[str, list[tuple[str, Any]]]) -> None:
    host, sent = server
    run = submit(plan, Deployment("registry.example/lwplugin:cpu"), host)
    assert (run.run_id, run.url) == ("r1", f"{host}/#/runs/details/r1")
    path, body = sent[-1]
    assert path.endswith("/runs")
    spec = body["pipeline_spec"]
    spec = spec.get("pipeline_spec", spec)
    assert spec["pipelineInfo"]["name"] == "lwplugin-net"
    assert spec["root"]["inputDefinitions"]["parameters"]["model"]["defaultValue"] == "models:/net/2"


def test_a_schedule_is_a_recurring_run(plan: Plan, server: tuple[str, list[tuple[str, Any]]]) -> None:
    host, sent = server
    run = submit(plan, Deployment(at_start=True), host, cron="0 0 3 * * *")
    assert run.url.endswith("/recurringrun/details/rr1")
    path, body = sent[-1]
    assert path.endswith("/recurringruns")
    assert body["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"


def test_a_server_that_does_not_answer_is_named(plan: Plan) -> None:
    with pytest.raises(LwpluginError, match=r"127\.0\.0\.1:9 did not take the run"):
        submit(plan, Deployment(), "http://127.0.0.1:9")
