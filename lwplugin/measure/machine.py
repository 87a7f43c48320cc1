"""What this machine is: instruction set, cores, load. Standard library only: device agents use it too."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwplugin.measure.result import Machine

_ISAS: dict[str, tuple[str, ...]] = {
    "amx": ("amx_int8",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "avx512": ("avx512bw", "avx512f"),
    "avx2": ("avx2",),
    "sse": ("sse4_2", "sse2"),
    "i8mm": ("i8mm",),
    "dotprod": ("asimddp",),
    "neon": ("asimd", "neon"),
}
_REPORTED = {flag for flags in _ISAS.values() for flag in flags} | {"fma", "f16c", "avx512_bf16", "amx_tile"}
_REPORTED |= {"amx_bf16", "avx512_fp16", "fphp", "sve", "sve2", "bf16"}
# Their int8 multiply-add sums two products in 16 bits, which overflow with 8-bit weights.
_SATURATING = {"avx512", "avx2", "sse"}


def cpu_flags() -> list[str]:
    """Instruction sets that matter to inference, sorted; empty where the system does not tell."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["asimd", "asimddp", "neon"]
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return sorted(_REPORTED.intersection(value.split()))
    return []


def isa(flags: list[str] | None = None) -> str:
    """The best int8 instruction set: amx, vnni, avx512, avx2, sse, i8mm, dotprod, neon or unknown.

    >>> isa(["avx2", "fma", "sse2"])
    'avx2'
    """
    have = set(cpu_flags() if flags is None else flags)
    for name, needed in _ISAS.items():
        if have.intersection(needed):
            return name
    return "unknown"


def int8_saturates(name: str | None = None) -> bool:
    """Whether 8-bit weights overflow in this instruction set's kernels; 7-bit ones (reduce_range) do not."""
    return (isa() if name is None else name) in _SATURATING


def allowed_cpus() -> list[int]:
    """The CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def load_average() -> float:
    return os.getloadavg()[0]


def facts() -> dict[str, Any]:
    """This machine now: the fields of ``Machine`` without the runtimes."""
    flags = cpu_flags()
    return {
        "cpu": _cpu_name(),
        "arch": platform.machine(),
        "cores": len(allowed_cpus()),
        "cpu_quota": _cpu_quota(),
        "flags": flags,
        "isa": isa(flags),
        "os": platform.platform(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load": load_average(),
    }


def describe(runtimes: dict[str, str]) -> Machine:
    """This machine now; ``runtimes`` is what the workers reported."""
    from lwplugin.measure.result import Machine

    return Machine(**facts(), runtimes=runtimes)


def idle_cpus(count: int, window_s: float = 0.05) -> list[int]:
    """The ``count`` least busy CPUs this process may use; all of them where the system does not tell."""
    allowed = allowed_cpus()
    before = _idle_ticks()
    time.sleep(window_s)
    after = _idle_ticks()
    idle = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in allowed}
    return sorted(sorted(allowed, key=lambda cpu: (-idle[cpu], -cpu))[:count])


def available_memory_bytes() -> int | None:
    """Memory that can still be taken without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def throttling(root: str = "/") -> dict[str, float | None]:
    """What has slowed this machine down so far: ``heat`` and ``quota`` count events, ``mhz`` is the mean clock
    now, ``firmware`` the bits of a Raspberry Pi's `get_throttled`; None where the system does not tell."""
    cpus = Path(root, "sys/devices/system/cpu")
    heat = _numbers(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    clocks = _numbers(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    firmware = _numbers(Path(root, "sys/devices/platform/soc").glob("*/get_throttled"), base=16)
    return {
        "heat": sum(heat) if heat else None,
        "quota": _quota_stops(Path(root, "sys/fs/cgroup/cpu.stat")),
        "mhz": 1e-3 * sum(clocks) / len(clocks) if clocks else None,
        "firmware": firmware[0] if firmware else None,
    }


def _numbers(files: Iterable[Path], base: int = 10) -> list[int]:
    found = []
    for file in files:
        try:
            found.append(int(file.read_text().strip(), base))
        except (OSError, ValueError):
            continue
    return found


def _quota_stops(stat: Path) -> int | None:
    try:
        for line in stat.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "nr_throttled":
                return int(count)
    except (OSError, ValueError):
        return None
    return None


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _cpu_name() -> str:
    for line in _cpuinfo():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _cpu_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _idle_ticks() -> dict[int, int]:
    ticks: dict[int, int] = {}
    try:
        for line in Path("/proc/stat").read_text().splitlines():
            name, *values = line.split()
            if name.startswith("cpu") and name != "cpu":
                ticks[int(name[3:])] = int(values[3]) + int(values[4])
    except OSError:
        return {}
    return ticks


# What a controller may ask the machine that measures, this one or a remote one; no question names a path.
QUESTIONS: Mapping[str, Callable[..., Any]] = {
    "facts": facts,
    "load_average": load_average,
    "idle_cpus": lambda count: idle_cpus(int(count)),
    "available_memory_bytes": available_memory_bytes,
    "throttling": lambda: throttling(),
}
