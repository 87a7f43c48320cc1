"""Who may read the pages: tokens, of which only SHA-256 digests are on disk.

A token is 256 random bits, so a plain digest of it can be neither guessed nor looked up.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from lwplugin.errors import LwpluginError

COOKIE = "lwplugin_token"
_LINE = re.compile(r"^sha256:(?P<digest>[0-9a-f]{64})(?:\s+(?P<name>\S.*))?$")


class Tokens:
    """A file with one ``sha256:<digest> <name>`` a line; read at every question, so that a removed line counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        if not self._digests():
            raise LwpluginError(
                "The tokens file holds no token, so nobody could open the pages",
                got=str(file),
                do="add one with lwplugin serve RULES --new-token NAME",
            )

    def good(self, token: str | None) -> bool:
        """Raises LwpluginError where the file cannot be read: then nobody gets in."""
        given = _digest(token or "")
        found = False
        for known in self._digests():
            found |= hmac.compare_digest(known, given)
        return found and bool(token)

    def _digests(self) -> list[str]:
        return [match["digest"] for match in _lines(self.file)]


def add_token(file: Path, name: str) -> str:
    """A new token, which is nowhere kept; its digest is appended to the file, made for its owner only."""
    if not re.fullmatch(r"[\w.@-]{1,80}", name):
        raise LwpluginError(
            "A token's name is not usable", got=repr(name), do="use letters, digits, dots, dashes and @"
        )
    if file.exists():
        _lines(file)
    token = secrets.token_urlsafe(32)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as out:
        out.write(f"sha256:{_digest(token)} {name}\n")
    return token


def _lines(file: Path) -> list[re.Match[str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LwpluginError(
            "The tokens file cannot be read",
            got=f"{file}: {type(error).__name__}",
            do="make one with lwplugin serve RULES --new-token NAME",
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line.strip())
        if match is None:  # perhaps a token in clear: not repeated
            raise LwpluginError(
                f"Line {number} of the tokens file is no digest",
                got=str(file),
                do="write sha256:<64 hex digits> <name>, as lwplugin serve RULES --new-token NAME does",
            )
        found.append(match)
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
