"""What the command line and the local runner cost beyond the work itself.

python benchmarks/runner_overhead.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from lwplugin.components import installed_steps, step_named
from lwplugin.components.code import code_digest
from lwplugin.components.step import Step, StepConfig, execute

from lwplugin.artifact import Store
from lwplugin.progress import Progress

REPEATS = 100


class Config(StepConfig):
    """Of a step that does nothing."""

    number: int


def nothing(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    """The least a step can do."""
    (output / "out.txt").write_text(str(config.number))


STEP = Step("gate", Config, (), nothing, summary="", packages=("torch", "onnx", "onnxruntime"))


def cpu_s(arguments: list[str]) -> float:
    """CPU seconds of a Python process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed_ms(work: Callable[[int], object]) -> float:
    """Milliseconds a call, over REPEATS calls."""
    began = time.perf_counter()
    for number in range(REPEATS):
        work(number)
    return (time.perf_counter() - began) * 1000 / REPEATS


def main() -> None:
    """Print the numbers."""
    bare = median(cpu_s(["-c", "pass"]) for _ in range(9))
    shown = median(cpu_s(["-c", "from lwplugin.cli import main; main(['--help'])"]) for _ in range(9))
    print(f"python -c pass     {bare * 1000:6.1f} ms CPU")
    print(f"lwplugin --help    {shown * 1000:6.1f} ms CPU, {shown / bare:.1f} times that (limit 10)")
    began = time.perf_counter()
    for name in installed_steps():
        step_named(name)
        code_digest(name)
    print(f"once a process     {(time.perf_counter() - began) * 1000:6.1f} ms, code digests of all steps")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        execute(STEP, Config(number=-1), {}, store)
        made = timed_ms(lambda number: execute(STEP, Config(number=number), {}, store))
        found = timed_ms(lambda number: execute(STEP, Config(number=number), {}, store))
    print(f"a step, made       {made:6.1f} ms beyond its own work (limit 50)")
    print(f"a step, found      {found:6.1f} ms")


if __name__ == "__main__":
    main()
