"""Start-up: CPU time of `lwplugin --help` beside `python -c pass`; the goal is at most ten times.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

RUNS = 9


def cpu_s(command: list[str]) -> float:
    """Median user + system seconds of a command over some runs."""
    found = []
    for _ in range(RUNS):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        found.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return statistics.median(found)


def main() -> None:
    bare = cpu_s([sys.executable, "-c", "pass"])
    ours = cpu_s(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['lwplugin', '--help']; import lwplugin.cli as c; c.main()",
        ]
    )
    print(f"python -c pass {bare:.3f} s, lwplugin --help {ours:.3f} s CPU: {ours / bare:.1f} times")


if __name__ == "__main__":
    main()
