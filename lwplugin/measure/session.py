"""The controller's side of a worker process: start, ask with a deadline, explain a death."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from lwplugin.errors import MeasureError
from lwplugin.measure import wire
from lwplugin.measure.runtimes.base import command
from lwplugin.measure.wire import Array

_STDERR_TAIL_BYTES = 2000


Answer = tuple[dict[str, Any], dict[str, Array]]


class Peer(Protocol):
    """A worker to ask, in a process of this machine or of a remote device.

    ``queues`` says that requests to all peers of its machine are worked through one by one, in their order.
    """

    label: str
    queues: bool

    def ask(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> dict[str, Any]: ...

    def send(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> None: ...

    def receive(self) -> Answer: ...


def in_turn(peers: Sequence[Peer], op: str, fields: Mapping[str, Any]) -> Iterator[Answer]:
    """The same request to each, of whom never two work at once: a machine that queues is sent all of them
    together, so that the time a message travels passes once."""
    queues = all(peer.queues for peer in peers)
    if queues:
        for peer in peers:
            peer.send(op, **fields)
    for peer in peers:
        if not queues:
            peer.send(op, **fields)
        yield peer.receive()


class Worker:
    """One runtime in its own process; a context manager that always ends the process.

    ``label`` names it in errors. Every request raises MeasureError when the worker answers with an error,
    dies, or does not answer within ``timeout_s``; after a death or a timeout the process is gone.
    """

    queues = False

    def __init__(self, runtime: str, *, label: str, threads: int, timeout_s: float = 300.0) -> None:
        self.label = label
        self.timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            command(runtime, "lwplugin.measure.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
            bufsize=0,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise MeasureError(f"{label}: the worker process has no pipes")
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._doing = "start"
        self.send("hello", runtime=runtime)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> dict[str, Any]:
        """One request and its answer, without arrays."""
        return self.ask_arrays(op, arrays, **fields)[0]

    def ask_arrays(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> Answer:
        """One request and its answer."""
        self.send(op, arrays, **fields)
        return self.receive()

    def send(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> None:
        """Send a request; ``receive`` must follow, so that several workers can work at once."""
        self._doing = op
        deadline = time.monotonic() + self.timeout_s
        for part in wire.encode({"op": op, **fields}, arrays):
            view = memoryview(part)
            while view:
                self._wait(self._in, selectors.EVENT_WRITE, deadline)
                try:
                    view = view[os.write(self._in, view) :]
                except BlockingIOError:
                    continue
                except (BrokenPipeError, OSError):
                    raise self._death() from None

    def receive(self) -> Answer:
        """The answer to the last request."""
        deadline = time.monotonic() + self.timeout_s
        try:
            head, body = wire.decode_prefix(self._read(wire.PREFIX.size, deadline))
            message, arrays = wire.decode(self._read(head, deadline), self._read(body, deadline))
        except wire.WireError as error:
            self.close()
            raise MeasureError(f"{self.label}: the worker's answer is unreadable", got=error) from error
        if "error" in message:
            raise MeasureError(
                f"{self.label}: the runtime cannot {_VERBS.get(self._doing, self._doing)}",
                got=message["error"],
                do=None
                if " Do: " in message["error"]
                else "check the exported file with its runtime, and export it again if it is damaged",
            )
        return message, arrays

    def interrupt(self) -> None:
        """End the process from another thread: whoever waits for an answer sees it die."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._wait(self._out, selectors.EVENT_READ, deadline)
            try:
                piece = os.read(self._out, min(count - len(data), 1 << 20))
            except BlockingIOError:
                continue
            if not piece:
                raise self._death()
            data += piece
        return bytes(data)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                tail = self._tail()
                self.close()
                raise MeasureError(
                    f"{self.label}: the runtime did not finish '{self._doing}' within {self.timeout_s:g} s "
                    f"and was stopped",
                    got=tail or None,
                    do="raise timeout_s, or look for a model that hangs in its runtime",
                )

    def _death(self) -> MeasureError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code, tail = self._process.poll(), self._tail()
        self.close()
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {signal.Signals(-code).name}"
        return MeasureError(
            f"{self.label}: the runtime process died during '{self._doing}' ({how})",
            got=tail or "nothing on standard error",
            do="run the file alone in its runtime; SIGKILL often means that memory ran out",
        )

    def _tail(self) -> str:
        try:
            self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, self._stderr.tell() - _STDERR_TAIL_BYTES))
            return self._stderr.read().decode(errors="replace").strip()
        except ValueError:
            return ""


_VERBS = {
    "hello": "start",
    "load": "load the file",
    "warm": "run the file",
    "block": "run the file",
    "profile": "run the file with its profiler",
    "score": "run the file on the test examples",
}


@contextlib.contextmanager
def workers(runtimes: Mapping[str, str], *, threads: int, timeout_s: float) -> Iterator[dict[str, Worker]]:
    """Start one process per label at the same time, and end them all whatever happens."""
    with contextlib.ExitStack() as stack:
        started = {
            label: stack.enter_context(Worker(runtime, label=label, threads=threads, timeout_s=timeout_s))
            for label, runtime in runtimes.items()
        }
        yield started
