from __future__ import annotations

import logging
import threading

import pytest

from lwplugin.log_levels import no_less_than


def test_the_last_of_overlapping_blocks_puts_the_level_back(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("somebody.else")
    logger.setLevel(logging.INFO)
    first_in, second_in = threading.Event(), threading.Event()

    def first() -> None:
        with no_less_than(logging.ERROR, "somebody.else"):
            first_in.set()
            second_in.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with no_less_than(logging.CRITICAL, "somebody.else"):
        second_in.set()
        thread.join()
        logger.error("while the second block lasts")
        logging.getLogger("somebody.else.below").error("below")
    logger.info("afterwards")
    assert caplog.messages == ["afterwards"]
