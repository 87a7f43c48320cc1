"""An authenticated connection between a controller and a device agent: both sides prove that they hold the
same token, and every message after that carries a MAC over its place in the order.

The proof is an HMAC over fresh nonces of both sides, so the token never travels and nothing can be replayed.
What travels is readable to whoever listens unless the socket is a TLS one. Standard library and numpy only.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lwplugin.measure import wire
from lwplugin.measure.wire import Array

MIN_TOKEN_CHARACTERS = 24
MAX_FRAME_BYTES = 512 << 20
_GREETING = "LWAGENT1"
_LINE_BYTES = 256
_MAC_BYTES = hashlib.sha256().digest_size
_ORDER = struct.Struct(">Q")


class ChannelError(Exception):
    """The connection cannot be used any more."""


class ClosedError(ChannelError):
    """The other side went away."""


class SilentError(ChannelError):
    """The other side did not say anything in time."""


class RefusedError(ChannelError):
    """One side does not hold the token, or speaks something else."""


class Channel:
    """Messages with arrays, in order. One thread may send while another receives.

    ``silence_s`` is how long the other side may go without accepting or sending a byte.
    """

    def __init__(self, connection: socket.socket, *, silence_s: float) -> None:
        self.silence_s = silence_s
        self._socket = connection
        self._socket.setblocking(False)
        self._keys = (b"", b"")
        self._sent = self._received = 0
        self._one_writer = threading.Lock()
        self._one_call = threading.Lock()  # a TLS object must not be read and written at the same moment
        self._watch_for_loss()

    def answer(self, token: str) -> None:
        """The agent's side of the proof. Raises RefusedError, after which the connection is of no use."""
        mine = secrets.token_hex(32)
        self._write(f"{_GREETING} {mine}\n".encode())
        words = self._line()
        if len(words) != 2 or not _same(words[1], _proof(token, "controller", mine, words[0])):
            self._write(b"no\n")
            raise RefusedError("a wrong token")
        self._write(f"ok {_proof(token, 'agent', mine, words[0])}\n".encode())
        self._agree(token, mine, words[0], ours="agent", theirs="controller")

    def prove(self, token: str) -> None:
        """The controller's side. Raises RefusedError where the agent does not take the token or has another."""
        words = self._line()
        if len(words) != 2 or words[0] != _GREETING:
            raise RefusedError("no lwplugin agent answers there")
        mine = secrets.token_hex(32)
        self._write(f"{mine} {_proof(token, 'controller', words[1], mine)}\n".encode())
        said = self._line()
        if said == ["no"]:
            raise RefusedError("the agent does not accept the token")
        if len(said) != 2 or not _same(said[1], _proof(token, "agent", words[1], mine)):
            raise RefusedError("the agent does not hold the token")
        self._agree(token, words[1], mine, ours="controller", theirs="agent")

    def send(self, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
        """Raises ClosedError, or SilentError where the other side takes nothing any more."""
        parts = wire.encode(message, arrays)
        with self._one_writer:
            mac = self._mac(self._keys[0], self._sent)
            for part in parts:
                mac.update(part)
                self._write(part)
            self._write(mac.digest())
            self._sent += 1

    def receive(self, *, idle: bool = False) -> tuple[dict[str, Any], dict[str, Array]]:
        """The next message; ``idle`` waits for its beginning without end.

        Raises ClosedError, SilentError, or RefusedError for what is not the message the other side sent at this place.
        """
        mac = self._mac(self._keys[1], self._received)
        try:
            prefix = self._read(wire.PREFIX.size, idle=idle)
            head, body = wire.decode_prefix(prefix)
            if head + body > MAX_FRAME_BYTES:
                raise RefusedError(f"a message of {head + body} bytes; at most {MAX_FRAME_BYTES}")
            parts = [prefix, self._read(head), self._read(body)]
            for part in parts:
                mac.update(part)
            if not hmac.compare_digest(mac.digest(), self._read(_MAC_BYTES)):
                raise RefusedError("a message that was changed on its way")
            self._received += 1
            return wire.decode(parts[1], parts[2])
        except wire.WireError as error:
            raise RefusedError(str(error)) from error

    def close(self) -> None:
        """Safe to call twice and while another thread waits."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _agree(self, token: str, first: str, second: str, *, ours: str, theirs: str) -> None:
        keys = [_proof(token, f"from {who}", first, second).encode() for who in (ours, theirs)]
        self._keys = (keys[0], keys[1])

    def _mac(self, key: bytes, place: int) -> hmac.HMAC:
        return hmac.new(key, _ORDER.pack(place), hashlib.sha256)

    def _line(self) -> list[str]:
        """The words of one short line."""
        text = bytearray()
        while not text.endswith(b"\n"):
            if len(text) >= _LINE_BYTES:
                raise RefusedError("no lwplugin agent speaks there")
            text += self._read(1)
        return text.decode("ascii", "replace").split()

    def _read(self, count: int, *, idle: bool = False) -> bytes:
        data = bytearray()
        while len(data) < count:
            take = partial(self._socket.recv, min(count - len(data), 1 << 20))
            piece: bytes = self._attempt(take, selectors.EVENT_READ, idle=idle)
            if not piece:
                raise ClosedError("the connection was closed")
            data += piece
            idle = False
        return bytes(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._attempt(partial(self._socket.send, view[: 1 << 20]), selectors.EVENT_WRITE) :]

    def _attempt(self, action: Callable[[], Any], event: int, *, idle: bool = False) -> Any:
        """Until it can be done without waiting; the lock is never held while waiting."""
        deadline = None if idle else time.monotonic() + self.silence_s
        while True:
            waiting = event
            try:
                with self._one_call:
                    return action()
            except ssl.SSLWantReadError:
                waiting = selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                waiting = selectors.EVENT_WRITE
            except BlockingIOError:
                pass
            except (OSError, ValueError) as error:
                raise ClosedError(f"the connection was lost ({error})") from error
            self._wait(waiting, deadline)

    def _wait(self, event: int, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, event)
                ready = selector.select(left)
        except (OSError, ValueError) as error:
            raise ClosedError("the connection was closed") from error
        if not ready and left is not None:
            raise SilentError(f"nothing was heard for {self.silence_s:g} s")

    def _watch_for_loss(self) -> None:
        """A machine that is switched off says no goodbye: let the system ask for it."""
        third = max(1, int(self.silence_s / 3))
        # Neither every socket nor every system has these options.
        with contextlib.suppress(AttributeError, OSError):
            for level, name, value in (
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, third),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, third),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * self.silence_s)),
            ):
                self._socket.setsockopt(level, name, value)


def _proof(token: str, who: str, first: str, second: str) -> str:
    said = f"{_GREETING} {who} {first} {second}".encode()
    return hmac.new(token.encode(), said, hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode(), wanted.encode())
