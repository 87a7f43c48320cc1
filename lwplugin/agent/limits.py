"""What an agent allows."""

from __future__ import annotations

from dataclasses import dataclass, field


def _limit(default: float, what: str) -> float:
    return field(default=default, metadata={"help": what})


@dataclass(frozen=True)
class Limits:
    """Each is an option of `lwplugin agent`: ``max_upload_bytes`` is ``--max-upload-bytes``."""

    max_upload_bytes: float = _limit(2 << 30, "bytes that the files of one job may take")
    job_seconds: float = _limit(1800, "longest time of one job; then its processes are ended")
    waiting: float = _limit(4, "jobs that may wait in line; further ones are told that the device is busy")
    connections: float = _limit(16, "connections at once, others are closed unanswered")
    silence_seconds: float = _limit(20, "a controller that cannot be reached for so long is given up")
    beat_seconds: float = _limit(2, "how often a controller that waits is told that the device is alive")
