"""Why a notice did not go out, and whether it is worth trying again."""

from __future__ import annotations


class NotSentError(Exception):
    """``final``: the other side will not take it however often it is sent. ``retry_after_s``: what it asked for."""

    def __init__(self, why: str, *, final: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(why)
        self.final, self.retry_after_s = final, retry_after_s
