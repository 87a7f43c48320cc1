"""Memory of this process in bytes, from /proc where there is one."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status(field: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def peak_bytes() -> int:
    """Highest resident memory since the process began or since ``reset_peak`` worked."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024


def resident_bytes() -> int:
    """Resident memory now; the peak where the system does not tell."""
    return _status("VmRSS") or peak_bytes()


def reset_peak() -> bool:
    """Forget the peak so far; False where the kernel forbids it (peaks then count from the start)."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True
