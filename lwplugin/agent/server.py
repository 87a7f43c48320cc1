"""Takes connections, checks who is there, and lets one job after the other run."""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from typing import Any

from lwplugin.agent.job import Job, explained
from lwplugin.agent.limits import Limits
from lwplugin.agent.line import Line
from lwplugin.errors import MeasureError
from lwplugin.measure.channel import MIN_TOKEN_CHARACTERS, Channel, ChannelError, RefusedError
from lwplugin.measure.machine import facts

PROTOCOL = 1
_HANDSHAKE_SECONDS = 10.0
_REFUSAL_SECONDS = 0.5  # a guesser waits, and there are only so many connections
log = logging.getLogger("lwplugin.agent")


class Agent:
    """Listens from its creation on; ``serve`` answers until ``stop``.

    Raises MeasureError for a short token or an address that cannot be had.
    """

    def __init__(
        self,
        address: tuple[str, int],
        token: str,
        runtimes: dict[str, str],
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if len(token) < MIN_TOKEN_CHARACTERS:
            raise MeasureError(
                f"The token is shorter than {MIN_TOKEN_CHARACTERS} characters",
                do="make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )
        self.runtimes = runtimes
        self._token, self._limits, self._tls = token, limits, tls
        self._line = Line(int(limits.waiting))
        self._room = threading.Semaphore(int(limits.connections))
        self._jobs: set[Job] = set()
        self._closing = False
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._listening = socket.create_server(address, family=family)
        except OSError as error:
            raise MeasureError(f"Cannot listen on {address[0]}:{address[1]}", got=error) from error
        self._listening.setblocking(False)
        # A signal may reach any thread: whatever it is written into must wake the one that listens.
        self.waking, self._woken = socket.socketpair()
        self.waking.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listening.getsockname()[:2]
        return str(host), int(port)

    def serve(self) -> None:
        """Until ``stop``; every connection has a thread."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                selector.select()
                with contextlib.suppress(OSError):  # who knocked may be gone already
                    self._admit(*self._listening.accept())

    def stop(self) -> None:
        """Take no more connections; ``serve`` returns."""
        self._closing = True
        with contextlib.suppress(OSError):
            self.waking.send(b"x")

    def close(self) -> None:
        """End what runs; its files go too."""
        self.stop()
        for one in (self._listening, self._woken, self.waking):
            one.close()
        for job in list(self._jobs):
            job.stop("the agent is shutting down")
        deadline = time.monotonic() + 10
        while self._jobs and time.monotonic() < deadline:
            time.sleep(0.05)

    def _admit(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        peer = str(address[0])
        if not self._room.acquire(blocking=False):
            log.warning("%s: too many connections", peer)
            connection.close()
            return
        threading.Thread(target=self._meet, args=(connection, peer), daemon=True).start()

    def _meet(self, connection: socket.socket, peer: str) -> None:
        try:
            channel = self._greet(connection)
        except (ChannelError, OSError) as error:
            log.warning("%s: refused (%s)", peer, error)
            time.sleep(_REFUSAL_SECONDS)
            connection.close()
            self._room.release()
            return
        try:
            self._hear(channel, peer)
        except ChannelError as error:
            log.info("%s: %s", peer, error)
        finally:
            channel.close()
            self._room.release()

    def _greet(self, connection: socket.socket) -> Channel:
        """Within a time that no trickle of bytes can stretch: there are only so many connections."""
        seconds = min(_HANDSHAKE_SECONDS, self._limits.silence_seconds)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        late = threading.Timer(seconds, _shut, [connection])
        late.start()
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.settimeout(seconds)
                connection.do_handshake()
            channel = Channel(connection, silence_s=seconds)
            channel.answer(self._token)
        finally:
            late.cancel()
        channel.silence_s = self._limits.silence_seconds
        return channel

    def _hear(self, channel: Channel, peer: str) -> None:
        message, _ = channel.receive()
        op = message.get("op")
        if message.get("protocol") != PROTOCOL or op not in ("status", "job"):
            error = MeasureError("The agent is of another release", do="use the same release on both sides")
            channel.send({"failed": explained(error)})
        elif op == "status":
            channel.send(self._status())
        else:
            self._lead(channel, peer)

    def _status(self) -> dict[str, Any]:
        inside = len(self._line)
        limits = {"max_upload_bytes": self._limits.max_upload_bytes, "job_seconds": self._limits.job_seconds}
        return {
            "state": "busy" if inside else "idle",
            "waiting": max(0, inside - 1),
            "machine": facts(),
            "runtimes": self.runtimes,
            "limits": limits,
        }

    def _lead(self, channel: Channel, peer: str) -> None:
        """This thread reads on, so that a lost connection is seen at once; another one works."""
        place = self._line.join()
        if place is None:
            error = MeasureError(
                "the device is busy",
                got=f"{self._line.limit} jobs wait already",
                do="try again later, or start the agent with a larger --waiting",
            )
            channel.send({"failed": explained(error)})
            return
        job = Job(channel, self._limits, self.runtimes)
        self._jobs.add(job)
        worker = threading.Thread(target=self._work, args=(job, channel, place, peer), daemon=True)
        worker.start()
        try:
            while not job.over:
                job.take(*channel.receive(idle=True))
        except ChannelError as error:
            if not job.over:
                log.info(
                    "%s: %s", peer, error if not isinstance(error, RefusedError) else f"refused ({error})"
                )
        finally:
            job.stop(None)
            worker.join()

    def _work(self, job: Job, channel: Channel, place: object, peer: str) -> None:
        began = time.monotonic()
        try:
            while not self._line.wait(place, self._limits.beat_seconds):
                if job.over:
                    return
                channel.send({"ahead": self._line.ahead(place)})
            if not job.over:
                channel.send({"turn": True, "runtimes": self.runtimes, "arch": facts()["arch"]})
                log.info("%s: job begins after %.1f s in line", peer, time.monotonic() - began)
                job.run()
                log.info("%s: job ended", peer)
        except ChannelError as error:
            log.info("%s: %s", peer, error)
        finally:
            job.stop(None)
            self._line.leave(place)
            self._jobs.discard(job)
            channel.close()  # wakes the thread that reads


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
