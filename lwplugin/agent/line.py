"""One job at a time: the others wait in line."""

from __future__ import annotations

import threading
from collections import deque


class Line:
    """First come, first served; ``limit`` is how many may wait behind the one at work."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places: deque[object] = deque()
        self._moved = threading.Condition()

    def join(self) -> object | None:
        """A place, to be given up by ``leave``; None where the line is full."""
        with self._moved:
            if len(self._places) > self.limit:
                return None
            place = object()
            self._places.append(place)
            return place

    def wait(self, place: object, seconds: float) -> bool:
        """Whether the place is the first; waits for that at most so long."""
        with self._moved:
            return self._moved.wait_for(lambda: self._places[0] is place, seconds)

    def ahead(self, place: object) -> int:
        """How many come first."""
        with self._moved:
            return self._places.index(place)

    def leave(self, place: object) -> None:
        with self._moved:
            self._places.remove(place)
            self._moved.notify_all()

    def __len__(self) -> int:
        with self._moved:
            return len(self._places)
