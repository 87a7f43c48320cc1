"""The controller's side of a device agent: the same workers, behind an authenticated connection."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from lwplugin.errors import MeasureError
from lwplugin.measure.channel import Channel, ChannelError, RefusedError, SilentError
from lwplugin.measure.inventory import Device
from lwplugin.measure.session import Answer, Peer
from lwplugin.measure.subject import Subject
from lwplugin.measure.wire import Array
from lwplugin.progress import Progress, silent

PROTOCOL = 1
_CHUNK_BYTES = 1 << 20
_OURS = ""  # the agent itself among those who answer


class RemoteWorker:
    """One worker process on the device; a Peer."""

    queues = True

    def __init__(self, device: RemoteDevice, label: str, timeout_s: float) -> None:
        self.label = label
        self._device, self._timeout_s = device, timeout_s

    def ask(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> dict[str, Any]:
        self.send(op, arrays, **fields)
        return self.receive()[0]

    def send(self, op: str, arrays: Mapping[str, Array] | None = None, **fields: Any) -> None:
        self._device.send(self.label, {"op": op, **fields}, arrays)

    def receive(self) -> Answer:
        return self._device.receive(self.label, self._timeout_s)


class RemoteDevice:
    """One job on a device, from its turn in the agent's line to its end. A Host.

    Everything raises MeasureError: a wrong token, an unreachable, silent or busy agent, a lost connection,
    and whatever goes wrong on the device itself.
    """

    def __init__(self, name: str, entry: Device, *, progress: Progress = silent) -> None:
        self.name = name
        self.accelerator: str = entry.accelerator
        self._entry, self._progress = entry, progress
        self._channel: Channel | None = None
        self._waiting: dict[str, deque[tuple[dict[str, Any], dict[str, Array]]]] = {}
        self._placed: dict[str, str] = {}
        self._runtimes: list[str] = []

    def __enter__(self) -> Self:
        self._channel = self._connect()
        try:
            self._take_turn(self._channel)
        except BaseException:
            self._channel.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._channel is not None:
            with contextlib.suppress(ChannelError):
                self._channel.send({"op": "end"})
            self._channel.close()

    def status(self) -> dict[str, Any]:
        """What the agent says of itself, without waiting in its line."""
        channel = self._connect()
        try:
            channel.send({"op": "status", "protocol": PROTOCOL})
            return self._checked(channel.receive()[0])
        except ChannelError as error:
            raise self._lost(error) from error
        finally:
            channel.close()

    def ask(self, question: str, **fields: Any) -> Any:
        self.send(_OURS, {"op": "question", "question": question, "fields": fields})
        return self.receive(_OURS, 30.0)[0]["value"]

    def place(self, subject: Subject) -> str:
        """Send the file and what belongs to it, once."""
        if subject.digest not in self._placed:
            folder = hashlib.sha256(subject.digest.encode()).hexdigest()[:16]
            parts = subject.parts()
            total, done = sum(part.stat().st_size for part in parts), 0
            for part in parts:
                done = self._put(
                    part, f"{folder}/{part.relative_to(subject.file.parent).as_posix()}", done, total
                )
            self._placed[subject.digest] = f"{folder}/{subject.file.name}"
        return self._placed[subject.digest]

    @contextlib.contextmanager
    def workers(
        self, runtimes: Mapping[str, str], *, threads: int, timeout_s: float
    ) -> Iterator[Mapping[str, Peer]]:
        if self._entry.threads is not None and threads > self._entry.threads:
            raise MeasureError(
                f"Device '{self.name}' has {self._entry.threads} threads", got=f"threads={threads}"
            )
        for runtime in dict.fromkeys(runtimes.values()):
            if runtime not in self._runtimes:
                raise MeasureError(
                    f"Device '{self.name}' does not offer {runtime}",
                    got=", ".join(sorted(self._runtimes)),
                    do="install the runtime there, or choose a format that one of these runs",
                )
        for label, runtime in runtimes.items():
            self.send(
                _OURS,
                {
                    "op": "start",
                    "label": label,
                    "runtime": runtime,
                    "threads": threads,
                    "timeout_s": timeout_s,
                },
            )
            self.receive(_OURS, timeout_s)
        peers = {label: RemoteWorker(self, label, timeout_s) for label in runtimes}
        for peer in peers.values():
            peer.send("hello")
        yield peers
        # The job's end would do it too; a connection that is lost meanwhile is the next request's matter.
        with contextlib.suppress(MeasureError):
            for label in runtimes:
                self.send(_OURS, {"op": "stop", "label": label})
                self.receive(_OURS, 30.0)

    def energy(self, worker: Peer, *, run_ms: float, seconds: float) -> dict[str, Any]:
        request = {"op": "energy", "label": worker.label, "device": self.accelerator}
        self.send(_OURS, {**request, "run_ms": run_ms, "seconds": seconds})
        return dict(self.receive(_OURS, 60 + 10 * seconds)[0]["value"])

    def send(self, to: str, request: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        """A request to a worker, or with ``to`` empty to the agent."""
        try:
            self._open.send({"to": to, "request": dict(request)}, arrays)
        except ChannelError as error:
            raise self._lost(error) from error

    def receive(self, sender: str, timeout_s: float) -> Answer:
        """The next answer of ``sender``; answers of others are kept for them."""
        deadline = time.monotonic() + timeout_s + self._entry.silence_s
        while not self._waiting.get(sender):
            message, arrays = self._next()
            if "from" in message:
                self._waiting.setdefault(str(message["from"]), deque()).append((message, arrays))
            elif time.monotonic() > deadline:
                raise MeasureError(
                    f"Device '{self.name}' is alive but did not answer within {timeout_s:g} s",
                    do="raise timeout_s, or look for a model that hangs in its runtime",
                )
        message, arrays = self._waiting[sender].popleft()
        return dict(self._checked(message).get("answer") or {}), arrays

    @property
    def _open(self) -> Channel:
        if self._channel is None:
            raise MeasureError(f"Device '{self.name}' is not connected", do="use it as a context manager")
        return self._channel

    def _connect(self) -> Channel:
        token = self._entry.token()
        try:
            connection = socket.create_connection(self._entry.host_and_port, timeout=self._entry.silence_s)
        except OSError as error:
            raise MeasureError(
                f"Device '{self.name}' cannot be reached at {self._entry.address}",
                got=error,
                do="start `lwplugin agent` there, or correct the address in the inventory",
            ) from error
        channel = None
        try:
            if self._entry.tls is not None:
                context = ssl.create_default_context(cafile=self._entry.tls.ca)
                host = self._entry.tls.server_name or self._entry.host_and_port[0]
                connection = context.wrap_socket(connection, server_hostname=host)
            channel = Channel(connection, silence_s=self._entry.silence_s)
            channel.prove(token)
        except (ChannelError, OSError) as error:
            connection.close()
            raise self._lost(error) from error
        return channel

    def _take_turn(self, channel: Channel) -> None:
        deadline = time.monotonic() + self._entry.wait_s
        try:
            channel.send({"op": "job", "protocol": PROTOCOL})
            while True:
                said = self._checked(channel.receive()[0])
                if said.get("turn"):
                    break
                if time.monotonic() > deadline:
                    raise MeasureError(
                        f"Device '{self.name}' is busy",
                        got=f"{said.get('ahead', '?')} jobs before ours after {self._entry.wait_s:g} s",
                        do="try again later, or raise wait_s in the inventory",
                    )
                self._progress(f"waiting for {self.name}, {said.get('ahead', '?')} before", 0, None)
        except ChannelError as error:
            raise self._lost(error) from error
        self._runtimes = sorted(said["runtimes"])
        if self._entry.arch not in (None, said["arch"]):
            raise MeasureError(
                f"Device '{self.name}' is not what the inventory says",
                got=f"{said['arch']}, not {self._entry.arch}",
                do="correct the address or the arch",
            )

    def _put(self, part: Path, name: str, done: int, total: int) -> int:
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            size = part.stat().st_size
            self.send(_OURS, {"op": "put", "file": name, "size": size, "sha256": digest})
            self.receive(_OURS, 60.0)
            while chunk := stream.read(_CHUNK_BYTES):
                self.send(_OURS, {"op": "chunk"}, {"bytes": np.frombuffer(chunk, np.uint8)})
                done += len(chunk)
                self._progress("upload", done, total)
            self.send(_OURS, {"op": "kept"})
            self.receive(_OURS, 600.0)
        return done

    def _next(self) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            message, arrays = self._open.receive()
        except ChannelError as error:
            raise self._lost(error) from error
        return (self._checked(message) if "from" not in message else message), arrays

    def _checked(self, message: dict[str, Any]) -> dict[str, Any]:
        failed = message.get("failed")
        if failed is None:
            return message
        raise MeasureError(
            f"Device '{self.name}': {failed.get('what')}", got=failed.get("got"), do=failed.get("do")
        )

    def _lost(self, error: Exception) -> MeasureError:
        if isinstance(error, RefusedError):
            what, do = "refused the connection", "compare the token here with the agent's"
        elif isinstance(error, SilentError):
            what, do = "fell silent", "look whether it hangs or the network is down, and measure again"
        elif isinstance(error, ssl.SSLError):
            what, do = (
                "has no TLS connection to offer",
                "compare tls in the inventory with the agent's --cert",
            )
        else:
            what, do = "was lost", "look at the agent's log, and measure again"
        return MeasureError(f"Device '{self.name}' {what}", got=error, do=do)
