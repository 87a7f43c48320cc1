"""The service over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lwplugin.serve.intake import Intake
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

    routes = [
        Route(WEBHOOK_PATH, receive, methods=["POST"]),
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
