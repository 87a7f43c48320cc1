from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "quantize"))


@pytest.fixture(scope="session")
def digits_data():
    from quantize_nets import digits

    return digits()


@pytest.fixture(scope="session")
def trained_net():
    from quantize_nets import trained

    return trained()
