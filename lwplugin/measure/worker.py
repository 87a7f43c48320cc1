"""The process that holds one runtime and one model: ``python -m lwplugin.measure.worker``.

Imports the standard library, numpy and the runtime alone, so that its memory is the runtime's own.
Requests come on standard input, answers go to what was standard output (see wire.py).
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from lwplugin.measure import memory, wire
from lwplugin.measure.runtimes.base import Profiles, Runtime, create
from lwplugin.measure.wire import Array

_PR_SET_PDEATHSIG = 1
Answer = tuple[dict[str, Any], dict[str, Array]]


class Server:
    """Answers one request at a time; ``feeds`` are the inputs that timed runs cycle through."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None
        self.feeds: list[dict[str, Array]] = []
        self.free_cpus: set[int] | None = None

    def _loaded(self) -> Runtime:
        if self.runtime is None:
            raise ValueError("no runtime was started: send 'hello' first")
        return self.runtime

    def hello(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Import the runtime."""
        began = time.perf_counter()
        self.runtime = create(request["runtime"])
        import_ms = 1e3 * (time.perf_counter() - began)
        return {"version": self.runtime.version, "import_ms": import_ms, "pid": os.getpid()}, {}

    def load(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Pin this process to ``cpus`` (if any), create the session, time it; ``cold``: with the file not in
        the page cache."""
        runtime = self._loaded()
        cpus = request.get("cpus")
        if cpus and hasattr(os, "sched_setaffinity"):
            self.free_cpus = os.sched_getaffinity(0)
            os.sched_setaffinity(0, cpus)
        if request.get("cold"):
            forget(request["file"])
        gc.collect()
        was_reset = memory.reset_peak()
        before = memory.resident_bytes()
        began = time.perf_counter()
        facts = runtime.load(
            request["file"],
            device=request["device"],
            threads=request["threads"],
            optimize=request["optimize"],
            output=request["output"],
        )
        load_ms = 1e3 * (time.perf_counter() - began)
        return {**facts, "load_ms": load_ms, "before_bytes": before, "peak_was_reset": was_reset}, {}

    def unpin(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Give this process all its CPUs back."""
        if self.free_cpus is not None:
            os.sched_setaffinity(0, self.free_cpus)
        return {}, {}

    def inputs(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Keep ``<place>:<name>`` arrays as the inputs of timed runs."""
        count = int(request["count"])
        self.feeds = [
            {name: arrays[f"{place}:{name}"] for name in request["names"]} for place in range(count)
        ]
        return {}, {}

    def warm(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Run until the median of a stretch is no longer under the best of the three before it."""
        runtime, feeds = self._loaded(), self.feeds
        began = time.perf_counter()
        runtime.run(feeds[0])
        first_ms = 1e3 * (time.perf_counter() - began)
        medians: list[float] = []
        runs, steady = 1, False
        while not steady and (time.perf_counter() - began < request["max_seconds"] or not medians):
            stretch: list[float] = []
            while sum(stretch) < request["stretch_seconds"] or len(stretch) < request["stretch_runs"]:
                start = time.perf_counter()
                runtime.run(feeds[runs % len(feeds)])
                stretch.append(time.perf_counter() - start)
                runs += 1
            steady = len(medians) >= 3 and statistics.median(stretch) >= 0.97 * min(medians[-3:])
            medians.append(statistics.median(stretch))
        answer = {"first_ms": first_ms, "run_ms": 1e3 * medians[-1], "runs": runs, "steady": steady}
        return answer, {}

    def block(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """``k`` timed runs after ``settle`` untimed ones: durations in ns, and in which of them the system
        gave this process's CPU to other work."""
        run, feeds = self._loaded().run, self.feeds
        k, offset = int(request["k"]), int(request["offset"])
        durations, switches = np.empty(k, np.int64), np.empty(k + 1, np.int64)
        count, clock, usage = len(feeds), time.perf_counter_ns, resource.getrusage
        gc.disable()
        try:
            for i in range(int(request["settle"])):
                run(feeds[i % count])
            cpu, wall = time.process_time_ns(), clock()
            switches[0] = usage(resource.RUSAGE_SELF).ru_nivcsw
            for i in range(k):
                feed = feeds[(offset + i) % count]
                start = clock()
                run(feed)
                durations[i] = clock() - start
                switches[i + 1] = usage(resource.RUSAGE_SELF).ru_nivcsw
            wall, cpu = clock() - wall, time.process_time_ns() - cpu
        finally:
            gc.enable()
        timed = {"durations_ns": durations, "disturbed": np.diff(switches) > 0}
        return {"wall_ns": wall, "cpu_ns": cpu}, timed

    def profile(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Where the time goes, kernel by kernel; ``kernels`` is None where the runtime has no profiler. The
        loaded session stays."""
        runtime = self._loaded()
        if not isinstance(runtime, Profiles):
            return {"kernels": None}, {}
        wanted = {key: request[key] for key in ("device", "threads", "output", "seconds")}
        runs, kernels = runtime.profile(request["file"], feeds=self.feeds, **wanted)
        return {"runs": runs, "kernels": kernels}, {}

    def score(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """The output for one batch."""
        return {}, {"output": np.ascontiguousarray(self._loaded().run(arrays))}

    def memory(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        return {"peak_bytes": memory.peak_bytes(), "resident_bytes": memory.resident_bytes()}, {}

    def answer(self, request: dict[str, Any], arrays: dict[str, Array]) -> Answer:
        """Dispatch; an exception becomes an answer, so that the controller can say it."""
        handlers: dict[str, Callable[[dict[str, Any], dict[str, Array]], Answer]] = {
            "hello": self.hello,
            "load": self.load,
            "unpin": self.unpin,
            "inputs": self.inputs,
            "warm": self.warm,
            "block": self.block,
            "profile": self.profile,
            "score": self.score,
            "memory": self.memory,
        }
        try:
            return handlers[request["op"]](request, arrays)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:4000]}, {}


def forget(file: str) -> None:
    """Drop a file (or a directory's files) from the page cache, where the system takes that advice."""
    for folder, _, names in os.walk(file) if os.path.isdir(file) else [("", [], [file])]:
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)  # what is not written yet cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            except (AttributeError, OSError):
                pass
            finally:
                os.close(descriptor)


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the other side closes."""
    server = Server()
    while True:
        try:
            head, body = wire.decode_prefix(_read(requests, wire.PREFIX.size))
            request, arrays = wire.decode(_read(requests, head), _read(requests, body))
        except EOFError:
            return
        for part in wire.encode(*server.answer(request, arrays)):
            answers.write(part)
        answers.flush()


def _die_with_parent() -> None:
    """A killed controller must not leave a busy worker; elsewhere than on Linux end of input does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    _die_with_parent()
    # What a runtime prints must not mix with the answers: standard output becomes standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
