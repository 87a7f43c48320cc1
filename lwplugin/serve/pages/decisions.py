"""A model's log of decisions, read from the registry at most every few seconds and never waited for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from lwplugin.errors import LwpluginError
from lwplugin.registry import Decision

_KEPT = 256


class DecisionLogs:
    """``read`` answers with a model's log, oldest first; one thread asks, so that a slow registry stops no other."""

    def __init__(
        self, read: Callable[[str], Sequence[Decision]], *, keep_s: float = 30.0, wait_s: float = 5.0
    ) -> None:
        self._read, self._keep_s, self._wait_s = read, keep_s, wait_s
        self._asked: dict[str, tuple[float, Future[Sequence[Decision]]]] = {}
        self._thread = ThreadPoolExecutor(1, "decisions")

    async def of(self, model: str) -> tuple[list[Decision], str | None]:
        """(newest first, why it cannot be shown). To be called from the event loop only."""
        asked_s, future = self._asked.get(model, (0.0, None))
        if future is None or (future.done() and time.monotonic() - asked_s > self._keep_s):
            while len(self._asked) >= _KEPT:
                del self._asked[next(iter(self._asked))]
            future = self._thread.submit(self._read, model)
            self._asked[model] = (time.monotonic(), future)
        try:
            log = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), self._wait_s)
        except TimeoutError:
            return [], "The registry has not answered yet: load the page again."
        except LwpluginError as error:
            return [], str(error)
        except Exception as error:
            return [], f"The registry does not answer ({type(error).__name__})."
        return list(reversed(log)), None

    def close(self) -> None:
        """Waits for nobody."""
        self._thread.shutdown(wait=False, cancel_futures=True)
