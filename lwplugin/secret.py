"""Secrets: from the environment or from a mounted file, never from an argument, a recipe or a rule, and never in what
is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from pathlib import Path

from lwplugin.errors import LwpluginError

WEBHOOK_SECRET = "LWPLUGIN_WEBHOOK_SECRET"
DATABASE_URL = "LWPLUGIN_DATABASE_URL"


# To the last @ before the path: a password may hold one.
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+@")
_PASSWORD = re.compile(r"://[^/:\s]*:[^/\s]+@")


def redact(text: str) -> str:
    """The text with `user:password@` cut out of every address.

    >>> redact("postgresql://me:secret@db/mlflow is down")
    'postgresql://db/mlflow is down'
    """
    return _CREDENTIALS.sub("", text)


def holds_password(text: str) -> bool:
    """Whether an address in it has one.

    >>> holds_password("http://me:secret@host"), holds_password("http://me@host:5000")
    (True, False)
    """
    return _PASSWORD.search(text) is not None


def secret(name: str) -> str | None:
    """The text of variable `name`, or of the file that `name`_FILE names; None where neither is set.

    Raises LwpluginError, without the text, for a file that cannot be read.
    """
    file = os.environ.get(f"{name}_FILE")
    if not file:
        return os.environ.get(name) or None
    try:
        return Path(file).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise LwpluginError(
            f"The file that {name}_FILE names cannot be read",
            got=type(error).__name__,
            do="mount the secret there, readable for this user",
        ) from None


def secrets(name: str) -> tuple[str, ...]:
    """One secret a line: during a rotation the old and the new one are both good."""
    return tuple(line.strip() for line in (secret(name) or "").splitlines() if line.strip())


def needed_secret(name: str, *, why: str) -> str:
    """Raises LwpluginError where neither `name` nor `name`_FILE is set."""
    found = secret(name)
    if found is None:
        raise LwpluginError(f"{why} needs a secret that is not set", do=f"set {name} or {name}_FILE")
    return found


def sign(key: str | bytes, identity: str, timestamp: str, body: bytes) -> str:
    """``v1,<base64>``: HMAC-SHA256 over id, time and raw body, as MLflow and Standard Webhooks sign."""
    message = f"{identity}.{timestamp}.".encode() + body
    key = key.encode() if isinstance(key, str) else key
    return "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
