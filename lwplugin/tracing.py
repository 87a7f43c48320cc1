"""OpenTelemetry traces of service, runs and steps, where somebody collects them; otherwise nothing is imported.

They are sent where OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) says, by OpenTelemetry's own variables. In a
program that has set a tracer provider of its own, spans go there. A process that was started within a span goes on
with its trace (TRACEPARENT).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from lwplugin.run_context import context_tags

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = "TRACEPARENT"


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[None]:
    """Times the block. An error in it is told by its type: its words may hold what no collector should."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import Status, StatusCode

    known = {f"lwplugin.{key}": str(value) for key, value in attributes.items()}
    with tracer.start_as_current_span(
        name,
        context=_inherited(),
        attributes={**context_tags(), **known},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def trace_id() -> str | None:
    """Of the span that is open, 32 hex digits."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return format(found.trace_id, "032x") if found.is_valid else None


def for_child() -> dict[str, str]:
    """The variable that lets a process go on with the trace."""
    if trace_id() is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {_PARENT: carrier["traceparent"]} if "traceparent" in carrier else {}


def _tracer() -> Any:
    """None where nobody collects."""
    if any(os.environ.get(name) for name in _ENDPOINTS):
        provider = _provider()
        return None if provider is None else provider.get_tracer("lwplugin")
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider.get_tracer("lwplugin")


def _inherited() -> Any:
    """The starter's span where this process has none open; None leaves it to what is open."""
    parent = os.environ.get(_PARENT)
    if parent is None or trace_id() is not None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


@cache
def _provider() -> Any:
    """Our own, not the process's: nobody else's spans change where they go. What is unsent at exit is sent then."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:  # the variable may be set for the whole cluster
        logging.getLogger("lwplugin").warning(
            "no traces: %s is not installed, pip install 'lwplugin[traces]'", error.name
        )
        return None
    named = os.environ.get("OTEL_SERVICE_NAME") or "OTEL_RESOURCE_ATTRIBUTES" in os.environ
    made = TracerProvider(resource=None if named else Resource.create({"service.name": "lwplugin"}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made
