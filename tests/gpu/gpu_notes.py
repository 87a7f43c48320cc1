"""What a GPU test writes down."""

from __future__ import annotations

from collections.abc import Callable

Saw = Callable[[str, str], None]
"""(what, figure): one line of the page."""
