"""Takes deliveries in: refused, or on disk before it is answered. Many at once share one commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse

from lwplugin.log import log
from lwplugin.serve.events import MalformedError, delivery_of
from lwplugin.serve.queue import Delivery
from lwplugin.serve.signature import RefusedError, verify

MOST_BYTES = 256 * 1024
_A_COMMIT = 500
_MOST_WAITING = 2000


class OverloadedError(Exception):
    """More deliveries than can be looked into: the sender must come again."""


class GroupCommit:
    """``add`` returns when its delivery is committed; those that arrive meanwhile go into the next commit."""

    def __init__(self, store: Callable[[Sequence[Delivery]], set[str]]) -> None:
        self._store = store
        self._waiting: list[tuple[Delivery, asyncio.Future[bool]]] = []
        self._task: asyncio.Task[None] | None = None

    async def add(self, delivery: Delivery) -> bool:
        """True where it is new, False for a duplicate. Raises OverloadedError, or what the database raised."""
        if len(self._waiting) >= _MOST_WAITING:
            raise OverloadedError
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((delivery, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await done

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_A_COMMIT], self._waiting[_A_COMMIT:]
            try:
                new = await asyncio.to_thread(self._store, [delivery for delivery, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for delivery, done in batch:
                if not done.done():  # its sender may have hung up
                    done.set_result(delivery.id in new)
                new.discard(delivery.id)


class Intake:
    """The endpoint MLflow posts to."""

    def __init__(
        self,
        *,
        secrets: tuple[str, ...],
        store: Callable[[Sequence[Delivery]], set[str]],
        full: Callable[[], bool],
        arrived: Callable[[], None],
        counted: Callable[[str], None],
        window_s: float,
    ) -> None:
        self._secrets, self._full, self._arrived, self._window_s = secrets, full, arrived, window_s
        self._counted = counted
        self._commit = GroupCommit(store)

    async def __call__(self, request: Request) -> JSONResponse:
        outcome, answer = await self._take(request)
        self._counted(outcome)
        return answer

    async def _take(self, request: Request) -> tuple[str, JSONResponse]:
        if self._full():
            return "overloaded", _later(503)
        body = await _body(request)
        if body is None:
            return "too_large", _answer(413, "too large")
        try:
            now_s = time.time()
            identity = verify(
                request.headers, body, secrets=self._secrets, now_s=now_s, window_s=self._window_s
            )
        except RefusedError as refused:
            log("delivery refused", why=str(refused))
            return "refused", _answer(401, "refused")
        try:
            delivery = delivery_of(identity, body)
        except MalformedError:
            return "malformed", _answer(400, "not an MLflow event")
        if delivery is None:
            return "ignored", _answer(202, "ignored")
        try:
            new = await self._commit.add(delivery)
        except OverloadedError:
            return "overloaded", _later(429)
        except Exception:
            log("delivery not stored", error=True, delivery=identity)
            return "not_stored", _later(503)
        if new:
            self._arrived()
        return ("accepted", _answer(202, "accepted")) if new else ("duplicate", _answer(202, "duplicate"))


async def _body(request: Request) -> bytes | None:
    """Read no further than the limit, whatever the header promises."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return body


def _answer(status: int, text: str) -> JSONResponse:
    return JSONResponse({"status": text}, status)


def _later(status: int) -> JSONResponse:
    return JSONResponse({"status": "try again later"}, status, headers={"Retry-After": "5"})
