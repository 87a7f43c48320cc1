"""Is a delivery from the registry, and recent? MLflow signs id, time and raw body with HMAC-SHA256."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping

from lwplugin.secret import sign

SIGNATURE = "x-mlflow-signature"
TIMESTAMP = "x-mlflow-timestamp"
DELIVERY = "x-mlflow-delivery-id"
_MOST_CHARACTERS = 200
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class RefusedError(Exception):
    """The delivery is not taken; the text is for our log, the sender learns nothing."""


def verify(
    headers: Mapping[str, str], body: bytes, *, secrets: Iterable[str], now_s: float, window_s: float
) -> str:
    """The delivery's id. Raises RefusedError. Every comparison takes the same time whatever was sent."""
    delivery, timestamp = headers.get(DELIVERY, ""), headers.get(TIMESTAMP, "")
    if not delivery or len(delivery) > _MOST_CHARACTERS or not delivery.isprintable():
        raise RefusedError("no usable delivery id")
    if not _SECONDS.fullmatch(timestamp):
        raise RefusedError("no usable timestamp")
    sent = headers.get(SIGNATURE, "").encode("utf-8", "replace")
    good = False
    for secret in secrets:
        good |= hmac.compare_digest(sign(secret, delivery, timestamp, body).encode(), sent)
    if not good:
        raise RefusedError("wrong signature")
    age_s = now_s - int(timestamp)
    if abs(age_s) > window_s:  # signed rightly: a replay, or clocks that differ
        raise RefusedError(f"outside the replay window: sent {age_s:.0f} s ago by the registry's clock")
    return delivery
