"""Real webhooks from a real MLflow server to real replicas on PostgreSQL."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lwplugin.secret import sign
from lwplugin.serve.signature import DELIVERY, SIGNATURE, TIMESTAMP

QUICK = ("--workers", "3", "--reconcile-every", "3600")


def headers(
    secret: str, body: bytes, *, delivery: str | None = None, at: float | None = None
) -> dict[str, str]:
    delivery, stamp = delivery or uuid.uuid4().hex, str(int(at or time.time()))
    return {DELIVERY: delivery, TIMESTAMP: stamp, SIGNATURE: sign(secret, delivery, stamp, body)}


def alias_event(name: str, alias: str, version: str) -> bytes:
    data = {"name": name, "alias": alias, "version": version}
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()


def test_hundreds_of_events_at_two_replicas_start_every_piece_of_work_once(site: Any) -> None:
    """Each event reaches both replicas, as behind two webhooks, and each alias is set twice over."""
    site.rules("{models: burst-*, alias: champion}")
    first, second = site.serve(*QUICK), site.serve(*QUICK)
    for replica in (first, second):
        site.registry.hook(site.ready(replica).hook_url)
    client, content = site.registry.client, site.registry.content

    def promote(number: int) -> str:
        name = f"burst-{number:03d}"
        client.create_registered_model(name)
        version = client.create_model_version(name, **content).version
        client.set_registered_model_alias(name, "champion", version)
        client.set_registered_model_alias(name, "champion", version)
        return f"models:/{name}/{version}"

    with ThreadPoolExecutor(8) as pool:
        expected = set(pool.map(promote, range(60)))
    site.wait(lambda: len(site.runs()) >= 60, 120)
    time.sleep(1)
    assert Counter(site.runs("began")) == Counter(expected)
    text = first.get("/metrics")[1]
    assert 'lwplugin_jobs{state="pass"} 60.0' in text
    assert "lwplugin_missed_total 0.0" in text


def test_forged_stale_duplicate_and_reordered_deliveries(site: Any, secret: str) -> None:
    site.rules("{models: posted, alias: champion}")
    replica = site.ready(site.serve("--reconcile-every", "3600"))
    registry = site.registry
    old, new = registry.add("posted"), registry.add("posted", "champion")
    body = alias_event("posted", "champion", new)
    post = replica.post
    assert post(headers("guessed", body), body)[0] == 401
    assert post({}, body)[0] == 401
    assert post(headers(secret, body), body + b" ")[0] == 401
    assert post(headers(secret, body, at=time.time() - 3600), body)[0] == 401
    assert post(headers(secret, b"{}"), b"{}")[0] == 400
    assert post(headers(secret, b"x" * 300_000), b"x" * 300_000)[0] == 413
    same = headers(secret, body)
    assert [post(same, body)[0] for _ in range(3)] == [202] * 3
    # The event of an earlier move arrives last: what the alias points to now counts.
    late = alias_event("posted", "champion", old)
    assert post(headers(secret, late), late)[0] == 202
    site.wait(lambda: f"models:/posted/{new}" in site.runs())
    time.sleep(2)
    assert site.runs("began") == [f"models:/posted/{new}"]
    text = replica.get("/metrics")[1]
    expected = {"refused": 4, "duplicate": 2, "accepted": 2, "malformed": 1, "too_large": 1}
    for outcome, count in expected.items():
        assert f'lwplugin_deliveries_total{{outcome="{outcome}"}} {count}.0' in text
    log = replica.log.read_text()
    assert secret not in log
    assert all(json.loads(line)["at"] for line in log.splitlines())


def test_more_than_can_be_looked_into_is_sent_away_and_taken_later(site: Any, secret: str) -> None:
    """The registry is down, so deliveries wait; beyond the limit their senders do."""
    site.rules("{models: flood, alias: champion}")
    site.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{site.servers.free_port()}"
    site.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    replica = site.ready(site.serve("--max-open", "5", "--reconcile-every", "3600"))
    body = alias_event("flood", "champion", "1")
    answers = [replica.post(headers(secret, body), body) for _ in range(8)]
    assert [status for status, _ in answers] == [202] * 5 + [503] * 3
    assert int(answers[-1][1]["retry-after"]) > 0
    assert replica.terminate() == 0
    registry = site.registry
    version = registry.add("flood", "champion")
    site.environment.clear()
    site.ready(site.serve("--reconcile-every", "3600"))
    site.wait(lambda: site.runs() == [f"models:/flood/{version}"])


def test_a_killed_replicas_work_is_taken_over_and_a_stopped_ones_handed_over(site: Any) -> None:
    options = ("--lease", "2", "--reconcile-every", "0.5")
    site.environment["FAKE_SECONDS"] = "60"
    site.rules("{models: taken, alias: champion}")
    first = site.ready(site.serve(*options))
    version = site.registry.add("taken", "champion")
    site.wait(lambda: len(site.runs("began")) == 1)
    first.kill()
    # The run dies with its replica, so that nobody runs it beside the next one.
    site.wait(lambda: not Path("/proc", site.processes()[0]).exists())
    second = site.serve(*options)
    site.wait(lambda: len(site.runs("began")) == 2)
    assert second.terminate() == 0
    assert not Path("/proc", site.processes()[1]).exists()
    site.environment["FAKE_SECONDS"] = "0"
    site.serve(*options)
    site.wait(lambda: site.runs("ended") == [f"models:/taken/{version}"])
    assert len(site.runs("began")) == 3
