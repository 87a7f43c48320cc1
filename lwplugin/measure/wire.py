"""Messages between a controller and a worker: length-prefixed JSON plus raw arrays; nothing executable.

Layout: magic ``LWM1``, JSON length (u32), body length (u64), the JSON, then each array's C-order bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
PREFIX = struct.Struct(">4sIQ")
MAGIC = b"LWM1"
MAX_JSON_BYTES = 64 << 20
MAX_BODY_BYTES = 8 << 30


class WireError(ValueError):
    """The bytes are not a message."""


def encode(message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> list[bytes]:
    """The message as byte strings to write one after another; arrays must be numbers or booleans."""
    listed: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        if array.dtype.kind not in "biufc":
            raise WireError(f"array '{name}' has dtype {array.dtype}: only numbers and booleans travel")
        bodies.append(array.tobytes())
        listed.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
    head = json.dumps({"message": dict(message), "arrays": listed}).encode()
    return [PREFIX.pack(MAGIC, len(head), sum(map(len, bodies))), head, *bodies]


def decode_prefix(prefix: bytes) -> tuple[int, int]:
    """(JSON length, body length) in bytes; raises WireError on anything but our prefix."""
    magic, head, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise WireError(f"a message starts with {MAGIC!r}, not {magic!r}")
    if head > MAX_JSON_BYTES or body > MAX_BODY_BYTES:
        raise WireError(f"message of {head} + {body} bytes is over the limit")
    return int(head), int(body)


def decode(head: bytes, body: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The message and its arrays (read-only views of ``body``)."""
    try:
        parsed = json.loads(head)
        message, listed = dict(parsed["message"]), list(parsed["arrays"])
        arrays: dict[str, Array] = {}
        at = 0
        for entry in listed:
            dtype, shape = np.dtype(str(entry["dtype"])), tuple(int(n) for n in entry["shape"])
            if dtype.kind not in "biufc" or any(n < 0 for n in shape):
                raise WireError(f"array entry {entry} is not allowed")
            count = math.prod(shape)
            arrays[str(entry["name"])] = np.frombuffer(body, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
    except WireError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"malformed message: {error}") from error
    if at != len(body):
        raise WireError(f"the arrays take {at} bytes, the message carries {len(body)}")
    return message, arrays
