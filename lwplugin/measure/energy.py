"""Energy per inference, where a counter exists: RAPL for the CPU package, NVML for a GPU.

The answers are the fields of ``Energy`` as plain values, so that a device agent needs no more than this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwplugin.measure.session import Peer

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """``joules`` since an arbitrary moment; falls back by ``wrap_joules`` when the hardware counter wraps."""

    source: str
    joules: Callable[[], float]
    wrap_joules: float

    def between(self, before: float, after: float) -> float:
        return after - before if after >= before else after - before + self.wrap_joules


def find_counter(device: str, powercap: Path = POWERCAP) -> Counter | str:
    """The counter for a device, or the reason why there is none."""
    return _nvml() if device == "cuda" else _rapl(powercap)


def measure_energy(
    worker: Peer, device: str, *, run_ms: float, seconds: float, powercap: Path = POWERCAP
) -> dict[str, Any]:
    """Joules per inference over a stretch of ``seconds`` of back-to-back runs in a warm worker.

    Whatever else the package or board does in that time is counted too.
    """
    counter = find_counter(device, powercap)
    if isinstance(counter, str):
        return {"state": "unavailable", "reason": counter}
    k = max(1, int(1e3 * seconds / run_ms))
    before, began = counter.joules(), time.perf_counter()
    worker.ask("block", k=k, settle=0, offset=0)
    joules, took = counter.between(before, counter.joules()), time.perf_counter() - began
    if joules <= 0:
        return {
            "state": "unavailable",
            "reason": f"the {counter.source} counter did not move in {took:.2f} s",
        }
    return {
        "state": "measured",
        "joules_per_inference": joules / k,
        "source": counter.source,
        "seconds": took,
    }


def _rapl(powercap: Path) -> Counter | str:
    packages = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not packages:
        return "this system has no RAPL counter (virtual machines and most ARM boards have none)"
    try:
        for zone in packages:
            int((zone / "energy_uj").read_text())
        wrap = min(int((zone / "max_energy_range_uj").read_text()) for zone in packages)
    except (OSError, ValueError) as error:
        return f"the RAPL counter cannot be read ({error}); it needs read permission on energy_uj"
    return Counter(
        source="rapl",
        joules=lambda: 1e-6 * sum(int((zone / "energy_uj").read_text()) for zone in packages),
        wrap_joules=1e-6 * wrap,
    )


def _nvml() -> Counter | str:
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed"
    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        return f"NVML has no energy counter for this GPU ({error})"
    return Counter(
        source="nvml",
        joules=lambda: 1e-3 * float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
        wrap_joules=1e-3 * 2**64,
    )
