from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lwplugin.tracing import for_child, span, trace_id

CHILD = """
import os, subprocess, sys
from lwplugin import run_context, tracing
from lwplugin.log import log, log_to_stderr
log_to_stderr()
deep = int(sys.argv[1])
with run_context.running(run="r1", model="models:/net/3"), tracing.span("run" if deep else "step prune", depth=deep):
    log("inside")
    if deep:
        environment = {**os.environ, **tracing.for_child()}
        subprocess.run([sys.executable, "-c", sys.argv[2], "0", ""], env=environment, check=True)
    else:
        try:
            with tracing.span("fails"):
                raise OSError("planted-secret")
        except OSError:
            pass
"""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector: (address, spans)."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(one for scope in resource.scope_spans for one in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()
    server.server_close()


def test_processes_share_a_trace_that_names_run_and_model_and_holds_no_secret(
    collector: tuple[str, list[Any]],
) -> None:
    address, spans = collector
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
    command = [sys.executable, "-c", CHILD, "1", CHILD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    by_name = {one.name: one for one in spans}
    assert set(by_name) == {"run", "step prune", "fails"}
    assert len({one.trace_id for one in spans}) == 1
    assert by_name["step prune"].parent_span_id == by_name["run"].span_id
    assert by_name["fails"].parent_span_id == by_name["step prune"].span_id
    told = {entry.key: entry.value.string_value for entry in by_name["run"].attributes}
    assert told == {"lwplugin.run": "r1", "lwplugin.model": "models:/net/3", "lwplugin.depth": "1"}
    assert (by_name["fails"].status.code, by_name["fails"].status.message) == (2, "OSError")
    assert "planted-secret" not in "".join(str(one) for one in spans)
    trace = by_name["run"].trace_id.hex()
    lines = [line for line in done.stderr.splitlines() if '"inside"' in line]
    assert len(lines) == 2
    assert all(f'"trace": "{trace}"' in line and '"run": "r1"' in line for line in lines)


def test_without_a_collector_nothing_is_imported_and_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    with span("nothing", job=3):
        assert for_child() == {}
    code = (
        "import sys\nfrom lwplugin.tracing import span\nwith span('x'): print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert trace_id() is None
