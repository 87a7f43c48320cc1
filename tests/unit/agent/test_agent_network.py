"""An agent in a network namespace of its own, whose cable can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lwplugin.errors import MeasureError
from lwplugin.measure import measure
from lwplugin.measure.fleet import states
from lwplugin.measure.inventory import inventory as read_inventory

NET = f"10.213.{os.getpid() % 250}"  # test processes beside this one have theirs
OURS, THEIRS = f"{NET}.1", f"{NET}.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    name, near, far = f"lwp{os.getpid()}", f"lwn{os.getpid()}", f"lwf{os.getpid()}"
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", far, "netns", name)
        ip("addr", "add", f"{OURS}/24", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", name, "addr", "add", f"{THEIRS}/24", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)


def cable(name: str, state: str) -> None:
    ip("link", "set", f"lwn{name[3:]}", state)


def test_a_device_on_another_network_measures_and_survives_a_pulled_cable(
    namespace: str,
    agents: Callable[..., Any],
    inventory: Callable[..., Path],
    exports: dict[str, Path],
    data: Any,
    short: dict[str, Any],
) -> None:
    agent = agents(listen=f"{THEIRS}:0", before=["ip", "netns", "exec", namespace])
    inventory(agent.port, host=THEIRS, silence_s=4)
    found = measure(exports["fast"], data, baseline=exports["slow"], device="board", **short)
    assert found.candidate.device == "board"
    assert found.speedup.estimate > 1.5

    pulled = threading.Event()

    def pull(label: str, done: int, total: int | None) -> None:
        if label == "time" and not pulled.is_set():
            pulled.set()
            cable(namespace, "down")

    began = time.monotonic()
    with pytest.raises(MeasureError, match=r"Device 'board' (fell silent|was lost)"):
        measure(exports["fast"], data, device="board", progress=pull, **short)
    assert time.monotonic() - began < 30
    assert states(read_inventory())[0]["state"] == "unavailable"
    cable(namespace, "up")
    # The agent gave the lost controller up, so the next job has its turn.
    assert agent.said("job ended")
    again = measure(exports["fast"], data, device="board", **short)
    assert again.device == "board"
