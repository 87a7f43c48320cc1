"""What happens in a real registry reaches a real receiver: once each, through outages and killed replicas."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lwplugin.registry import promote
from lwplugin.secret import sign

URL, SECRET = "TEAM_URL", "planted-signing-secret"
CHANNELS = """\
notify:
  - {name: team, slack: {url_variable: TEAM_URL}, events: [promoted, budget_violated]}
  - {name: gone, slack: {url_variable: GONE_URL}, events: promoted}
  - {name: program, webhook: {url: "HOOK", secret_variable: HOOK_SECRET}}
policy: policy.yaml
"""
POLICY = """\
rules: [{name: edge, models: told-*, budget: {p95_ms: 2}, bounds: optional, verdict: any}]
"""


class Receiver:
    """Down until it is told to be up."""

    def __init__(self) -> None:
        self.up = False
        self.bodies: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                known = {name.lower(): value for name, value in self.headers.items()}
                good = True
                if "webhook-id" in known:
                    stamp, identity = known["webhook-timestamp"], known["webhook-id"]
                    good = known["webhook-signature"] == sign(SECRET, identity, stamp, body)
                status = 200 if receiver.up and good else 503
                status = 410 if self.path == "/gone" else status
                if status == 200:
                    receiver.bodies.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self) -> Counter[str]:
        return Counter(body["event"] for body in self.bodies if "event" in body)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def _told_light_version(site: Any) -> str:
    content = site.registry.content
    tags = {"digest": "d", "target": "edge-cpu", "verdict": "pass", "p95_ms": "9"}
    tags = {f"lwplugin.{key}": value for key, value in tags.items()}
    site.registry.client.create_registered_model("told-net")
    return str(site.registry.client.create_model_version("told-net", **content, tags=tags).version)


def test_every_event_is_told_once_through_an_outage_and_a_killed_replica(
    site: Any, receiver: Receiver
) -> None:
    site.rules("{models: told-*, alias: champion}")
    rules = site.folder / "serve.yaml"
    rules.write_text(rules.read_text() + CHANNELS.replace('HOOK"', f'{receiver.url}/hook"'))
    (site.folder / "policy.yaml").write_text(POLICY)
    site.environment |= {
        URL: f"{receiver.url}/planted-slack-path",
        "GONE_URL": f"{receiver.url}/gone",
        "HOOK_SECRET": SECRET,
    }
    options = ("--reconcile-every", "1")
    first = site.ready(site.serve(*options))
    light = _told_light_version(site)
    parent = site.registry.add("told-parent", "champion")
    why = {"reason": "a try", "override": "a test", "who": "ana"}
    promote("told-parent", parent, "light", **why, tracking_uri=site.registry.uri)
    site.wait(lambda: 'lwplugin_notices{channel="program",state="waiting"} 4.0' in first.get("/metrics")[1])
    assert site.runs() == [f"models:/told-parent/{parent}"]
    first.kill()
    receiver.up = True
    second = site.ready(site.serve(*options))
    site.wait(lambda: sum(receiver.events().values()) >= 4)
    expected = {"registered": 1, "promoted": 1, "budget_violated": 1, "passed": 1}
    assert receiver.events() == expected
    site.wait(lambda: len(receiver.bodies) >= 6)
    assert len(receiver.bodies) == 6
    (broken,) = [body for body in receiver.bodies if body.get("event") == "budget_violated"]
    assert (broken["items"][0]["uri"], broken["items"][0]["value"]) == (f"models:/told-net/{light}", 9)
    assert any("by ana: a try" in body["text"] for body in receiver.bodies if "event" not in body)
    metrics, page = second.get("/metrics")[1], second.get("/notices")[1]
    assert 'lwplugin_notices{channel="gone",state="dead"} 1.0' in metrics
    assert "answered 410" in page
    assert "1 notice not delivered" in second.get("/")[1]
    written = "".join(replica.log.read_text() for replica in site.replicas) + metrics + page
    assert not any(planted in written for planted in ("planted-slack-path", SECRET))


def test_a_channel_whose_secret_is_missing_stops_the_start(site: Any) -> None:
    site.rules("{models: told-*, alias: champion}")
    rules = site.folder / "serve.yaml"
    rules.write_text(rules.read_text() + "notify: [{name: team, slack: {url_variable: TEAM_URL}}]\n")
    replica = site.serve()
    assert replica.process.wait(60) == 2
    assert "TEAM_URL" in replica.log.read_text()
