"""The service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lwplugin.registry import decision_log
from lwplugin.serve import outbox, queue
from lwplugin.serve.intake import Intake
from lwplugin.serve.pages.access import Tokens
from lwplugin.serve.pages.decisions import DecisionLogs
from lwplugin.serve.pages.site import Site, Source
from lwplugin.serve.service import Service

WEBHOOK_PATH = "/webhooks/mlflow"


def create_app(service: Service, *, secrets: tuple[str, ...], window_s: float = 300.0) -> Starlette:
    """Without a secret every delivery is refused; the reconciler works all the same."""
    intake = Intake(
        secrets=secrets,
        store=service.take_in,
        full=service.full,
        arrived=service.arrived,
        counted=lambda outcome: service.metrics.deliveries.labels(outcome).inc(),
        window_s=window_s,
    )

    logs = DecisionLogs(partial(decision_log, tracking_uri=service.tracking_uri))

    async def receive(request: Request) -> Response:
        return await intake(request)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        why = await asyncio.to_thread(service.ready)
        return JSONResponse({"status": why or "ready"}, 503 if why else 200)

    async def metrics(request: Request) -> Response:
        text = await asyncio.to_thread(service.metrics.text, service.engine)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.stop)
            logs.close()

    routes = [
        Route(WEBHOOK_PATH, receive, methods=["POST"]),
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/metrics", metrics),
        *_site(service, logs).routes(),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _site(service: Service, logs: DecisionLogs) -> Site:
    """Raises LwpluginError where a tokens file is named and cannot be used."""
    file = service.book.tokens_file
    source = Source(
        fleet=lambda: service.fleet,
        jobs=partial(queue.latest_jobs, service.engine),
        job_counts=partial(queue.job_counts, service.engine),
        decisions=logs,
        notices=partial(outbox.latest, service.engine) if service.book.rules.notify else None,
        notice_counts=partial(outbox.counts, service.engine),
    )
    tokens = Tokens(file) if file is not None else None
    return Site(source, tokens=tokens, mlflow=service.mlflow)
