"""The same comparison here, on an agent, and on an agent behind a slow network.

    python benchmarks/remote_device.py CANDIDATE_EXPORT BASELINE_EXPORT [--round-trip-ms 0 40 200]

The agent runs on this machine; a forwarder holds every byte back for half of the round trip, each way.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory

import numpy as np

from lwplugin.data import from_arrays
from lwplugin.export import load_exported
from lwplugin.measure import Comparison, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("--round-trip-ms", type=float, nargs="+", default=[0, 40, 200])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    os.environ["LWPLUGIN_AGENT_TOKEN"] = secrets.token_urlsafe(32)
    agent = subprocess.Popen(
        [sys.executable, "-m", "lwplugin.agent", "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    )
    try:
        port = int(re.search(r":(\d+) ", agent.stderr.readline())[1])  # type: ignore[index, union-attr]
        threading.Thread(target=lambda: list(agent.stderr), daemon=True).start()  # type: ignore[arg-type]
        _show("here", options.repeat, options.candidate, options.baseline, "cpu")
        for round_trip in options.round_trip_ms:
            near = _forward(port, 0.5e-3 * round_trip)
            with TemporaryDirectory() as folder:
                file = Path(folder, "devices.yaml")
                address = f"{{address: '127.0.0.1:{near}', token_env: LWPLUGIN_AGENT_TOKEN}}"
                file.write_text(f"devices: {{board: {address}}}")
                os.environ["LWPLUGIN_DEVICES"] = str(file)
                _show(
                    f"agent, {round_trip:g} ms", options.repeat, options.candidate, options.baseline, "board"
                )
    finally:
        agent.terminate()
        agent.wait()


def _show(name: str, repeat: int, candidate: Path, baseline: Path, device: str) -> None:
    rng = np.random.default_rng(0)
    ((_, spec),) = load_exported(candidate).inputs.items()
    shape = [size if isinstance(size, int) else 1 for size in spec["shape"][1:]]
    data = from_arrays(calibration=rng.random((8, *shape)).astype(spec["dtype"]))
    for _ in range(repeat):
        began = time.monotonic()
        found = measure(candidate, data, baseline=baseline, device=device, energy_seconds=0.1)
        assert isinstance(found, Comparison)
        speed, latency = found.speedup, found.candidate.latency
        print(
            f"{name}: p50 {latency.p50_ms:.4f} ms ({latency.p50_low_ms:.4f} to {latency.p50_high_ms:.4f}), "
            f"speed-up {speed.estimate:.3f} ({speed.low:.3f} to {speed.high:.3f}), "
            f"{found.candidate.noise.rounds} rounds, {time.monotonic() - began:.1f} s",
            flush=True,
        )


def _forward(port: int, delay_s: float) -> int:
    """A port whose connections go to ``port``, delayed in both directions."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            ours, _ = listening.accept()
            theirs = socket.create_connection(("127.0.0.1", port))
            for source, target in ((ours, theirs), (theirs, ours)):
                _delayed(source, target, delay_s)

    threading.Thread(target=accept, daemon=True).start()
    return int(listening.getsockname()[1])


def _delayed(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    waiting: Queue[tuple[float, bytes]] = Queue()
    target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read() -> None:
        while True:
            try:
                piece = source.recv(1 << 16)
            except OSError:
                piece = b""
            waiting.put((time.monotonic() + delay_s, piece))
            if not piece:
                return

    def write() -> None:
        while True:
            due, piece = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                target.close()
                return
            try:
                target.sendall(piece)
            except OSError:
                return

    for work in (read, write):
        threading.Thread(target=work, daemon=True).start()


if __name__ == "__main__":
    main()
