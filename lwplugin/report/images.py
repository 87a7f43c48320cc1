"""Small images as PNG data URIs, with nothing but zlib."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from lwplugin.errors import DataError


def data_uri(image: npt.NDArray[Any]) -> str:
    """A ``data:image/png`` URI of one image [c, h, w], c 1 or 3; each image is stretched to its own range.

    More than 3 channels show as their mean. Raises DataError for an image without pixels.
    """
    pixels = np.asarray(image, dtype=np.float64)
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise DataError("An image must be [channels, height, width]", got=pixels.shape, do="leave it out")
    if pixels.shape[0] not in (1, 3):
        pixels = pixels.mean(axis=0, keepdims=True)
    pixels = np.nan_to_num(pixels, posinf=0.0, neginf=0.0)
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)
    rows = np.rint(scaled * 255).astype(np.uint8).transpose(1, 2, 0)
    return "data:image/png;base64," + base64.b64encode(_png(rows)).decode("ascii")


def _png(rows: npt.NDArray[np.uint8]) -> bytes:
    height, width, channels = rows.shape
    colour = 2 if channels == 3 else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    # Every row begins with its filter type, 0: none.
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(body, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
