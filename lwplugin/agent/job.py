"""One job: files come in, workers run, answers go out, and nothing stays."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection
from typing import Any

from lwplugin.agent.area import Area
from lwplugin.agent.limits import Limits
from lwplugin.errors import LwpluginError, MeasureError
from lwplugin.measure.channel import Channel, ChannelError
from lwplugin.measure.energy import measure_energy
from lwplugin.measure.machine import QUESTIONS
from lwplugin.measure.session import Worker
from lwplugin.measure.wire import Array

_MOST_WORKERS = 16
_MOST_REQUESTS = 64
Request = tuple[dict[str, Any], dict[str, Array]]


class Job:
    """Requests are worked through one by one, in their order: two workers never run at once.

    ``take`` and ``stop`` are called from other threads.
    """

    def __init__(self, channel: Channel, limits: Limits, runtimes: Collection[str]) -> None:
        self._channel, self._limits, self._runtimes = channel, limits, runtimes
        self._requests: queue.Queue[Request | None] = queue.Queue(_MOST_REQUESTS)
        self._workers: dict[str, Worker] = {}
        self._changing = threading.Lock()
        self._over = threading.Event()
        self._why: str | None = None

    def take(self, message: dict[str, Any], arrays: dict[str, Array]) -> None:
        """The next request, from the thread that reads the connection; waits while too many are open."""
        if message.get("op") == "end":
            self.stop(None)
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._requests.put((message, arrays), timeout=1)
                return

    def stop(self, why: str | None) -> None:
        """End it now; ``why`` is told to the controller, where it is still there."""
        with self._changing:
            self._why = self._why or why
            self._over.set()
            for worker in self._workers.values():
                worker.interrupt()
        with contextlib.suppress(queue.Full):
            self._requests.put_nowait(None)

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def run(self) -> None:
        """Until the controller ends it, goes away, or the time is up."""
        seconds = self._limits.job_seconds
        timer = threading.Timer(seconds, self.stop, [f"a job may take {seconds:g} s on this device"])
        beats = threading.Thread(target=self._beat, daemon=True)
        area = Area(int(self._limits.max_upload_bytes))
        timer.start()
        beats.start()
        try:
            with contextlib.suppress(ChannelError):
                self._work(area)
        finally:
            timer.cancel()
            self._over.set()
            beats.join()
            for worker in self._workers.values():
                worker.close()
            area.remove()

    def _work(self, area: Area) -> None:
        while not self._over.is_set():
            item = self._requests.get()
            if item is None:
                continue
            message, arrays = item
            to = str(message.get("to", ""))
            try:
                answer, returned = self._answer(area, to, dict(message["request"]), arrays)
            except Exception as error:
                if not self._over.is_set():
                    self._channel.send({"from": to, "failed": explained(error)})
                continue
            if answer is not None and not self._over.is_set():
                self._channel.send({"from": to, "answer": answer}, returned)
        if self._why is not None:
            self._channel.send({"failed": {"what": "the job was ended", "got": self._why, "do": None}})

    def _answer(
        self, area: Area, to: str, request: dict[str, Any], arrays: dict[str, Array]
    ) -> tuple[dict[str, Any] | None, dict[str, Array]]:
        op = str(request.pop("op"))
        if to:
            worker = self._worker(to)
            if op != "hello":
                worker.send(op, arrays, **area.request(request))
            return worker.receive()
        agents: dict[str, Callable[..., dict[str, Any] | None]] = {
            "put": lambda: area.begin(str(request["file"]), int(request["size"]), str(request["sha256"])),
            "chunk": lambda: area.add(arrays["bytes"]),
            "kept": area.finish,
            "start": lambda: self._start(**request),
            "stop": lambda: self._stop(str(request["label"])),
            "question": lambda: {"value": QUESTIONS[request["question"]](**request["fields"])},
            "energy": lambda: {"value": self._energy(**request)},
        }
        if op not in agents:
            raise MeasureError("The agent does not know this request", got=op, do="update the agent")
        answer = agents[op]()
        return (None if op == "chunk" else answer or {}), {}

    def _start(self, *, label: str, runtime: str, threads: int, timeout_s: float) -> None:
        """Its first answer, to ``hello``, is fetched by its first request."""
        if runtime not in self._runtimes:
            raise MeasureError("This runtime is not offered here", got=runtime)
        if label in self._workers or not label or len(self._workers) >= _MOST_WORKERS:
            raise MeasureError("Another worker cannot be started", got=repr(label))
        worker = Worker(
            runtime, label=label, threads=int(threads), timeout_s=min(timeout_s, self._limits.job_seconds)
        )
        with self._changing:
            self._workers[label] = worker
            if self._over.is_set():
                worker.interrupt()

    def _stop(self, label: str) -> None:
        self._worker(label).close()
        with self._changing:
            del self._workers[label]

    def _energy(self, *, label: str, device: str, run_ms: float, seconds: float) -> dict[str, Any]:
        return measure_energy(self._worker(label), device, run_ms=run_ms, seconds=min(seconds, 60.0))

    def _worker(self, label: str) -> Worker:
        if label not in self._workers:
            raise MeasureError("No such worker was started", got=repr(label))
        return self._workers[label]

    def _beat(self) -> None:
        """Tell the controller that the device is alive while a runtime works."""
        while not self._over.wait(self._limits.beat_seconds):
            try:
                self._channel.send({"beat": True})
            except ChannelError:
                self.stop(None)
                return


def explained(error: Exception) -> dict[str, Any]:
    """An error in the three parts that every message has."""
    if isinstance(error, LwpluginError):
        return {"what": error.what, "got": error.got, "do": error.do}
    return {"what": "the request cannot be carried out", "got": f"{type(error).__name__}: {error}"[:2000]}
