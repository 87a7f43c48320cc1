"""The digest of the code a step runs: its own folder and every room of the library it reaches.

A step's stored result must not outlive a change of its code, and a change of the report must not
throw away a training. So the imports of the step's folder are followed, whole rooms at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lwplugin.components

import lwplugin
from lwplugin.artifact import digest_json

# Any mention counts, also `import_module("lwplugin.x")`: one room too many is a rerun, one too few a lie.
_MENTION = re.compile(r"\blwplugin\.(\w+)(?:\.(\w+))?|^\s*from\s+lwplugin\s+import\s+([\w, ]+)", re.MULTILINE)
_SOURCES = {".py", ".j2", ".html", ".css", ".js"}
# Every step runs through these; what they say cannot change what a step makes.
_OUTSIDE = {"errors", "progress"}


@cache
def code_digest(step: str) -> str:
    """sha256 over the sources step ``step`` can reach, and the package's version."""
    reached = {f"components.{step}", "components.step"}
    waiting = list(reached)
    digests: dict[str, dict[str, str]] = {}
    while waiting:
        room = waiting.pop()
        digests[room], imports = _room(room)
        waiting += imports - reached
        reached |= imports
    return digest_json({"version": lwplugin.__version__, "rooms": digests})


def _places(room: str) -> Iterator[Path]:
    first, _, second = room.partition(".")
    roots = lwplugin.components.__path__ if first == "components" else lwplugin.__path__
    for root in roots:
        yield from (Path(root) / (second or first), Path(root) / f"{second or first}.py")


@cache
def _room(room: str) -> tuple[dict[str, str], frozenset[str]]:
    """(relative path → sha256, rooms imported) of one folder or module."""
    digests: dict[str, str] = {}
    imports: set[str] = set()
    for place in _places(room):
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            if file.suffix not in _SOURCES or not file.is_file():
                continue
            content = file.read_bytes()
            digests[file.relative_to(place.parent).as_posix()] = hashlib.sha256(content).hexdigest()
            if file.suffix == ".py":
                imports |= _mentioned(content.decode())
    return digests, frozenset(imports - {room})


def _mentioned(source: str) -> set[str]:
    rooms: set[str] = set()
    for first, second, names in _MENTION.findall(source):
        if first == "components":
            rooms |= {f"components.{second}"} if second else set()
        else:
            rooms |= {first} if first else {name.strip() for name in names.split(",")}
    return rooms - _OUTSIDE
