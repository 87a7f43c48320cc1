"""Secrets: from the environment or from a mounted file, never from an argument, a recipe or a rule."""

from __future__ import annotations

import os
from pathlib import Path

from lwplugin.errors import LwpluginError

WEBHOOK_SECRET = "LWPLUGIN_WEBHOOK_SECRET"
DATABASE_URL = "LWPLUGIN_DATABASE_URL"


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
