"""Secrets are planted wherever the service takes one; then everything it wrote is searched for them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from lwplugin.secret import sign
from lwplugin.serve.signature import DELIVERY, SIGNATURE, TIMESTAMP


def test_no_planted_secret_is_in_any_log_file_tag_or_answer(site: Any, secret: str) -> None:
    password = site.servers.password
    assert password in site.database
    registry, servers = site.registry, site.servers
    site.rules("{models: planted, alias: champion}")
    replica = site.ready(site.serve("--reconcile-every", "3600"))
    registry.add("planted", "champion")
    body = b'{"entity":"model_version_alias","action":"created","data":{"name":"planted","alias":"champion"}}'
    for key in (secret, "guessed"):
        delivery, stamp = uuid.uuid4().hex, str(int(time.time()))
        headers = {DELIVERY: delivery, TIMESTAMP: stamp, SIGNATURE: sign(key, delivery, stamp, body)}
        replica.post(headers, body)
    site.wait(lambda: len(site.runs()) == 1)
    metrics = replica.get("/metrics")[1]
    assert replica.terminate() == 0
    # A database that is not there, and a registry with a password that is not there, are told of in the log.
    site.environment["MLFLOW_TRACKING_URI"] = f"http://me:{password}@127.0.0.1:{servers.free_port()}"
    site.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    lost = site.ready(site.serve("--reconcile-every", "3600"))
    site.wait(lambda: "trouble" in lost.log.read_text())
    lost.kill()
    site.environment["LWPLUGIN_DATABASE_URL"] = (
        f"postgresql://me:{password}@127.0.0.1:{servers.free_port()}/x"
    )
    refused = site.serve()
    assert refused.process.wait(120) == 2
    written = [path for path in site.folder.rglob("*") if path.is_file()]
    assert {replica.log, lost.log, refused.log} <= set(written)
    found = [
        path.name for path in written if any(s.encode() in path.read_bytes() for s in (secret, password))
    ]
    assert found == []
    tags = registry.client.get_model_version("planted", "1").tags
    assert not any(s in f"{metrics}{tags}" for s in (secret, password))
