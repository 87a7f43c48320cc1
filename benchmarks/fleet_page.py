"""The policy's evaluation and the fleet's pages over 1,000 and 10,000 versions, in CPU time, without a registry.

python benchmarks/fleet_page.py
"""

from __future__ import annotations

import datetime
import random
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.testclient import TestClient

from lwplugin.policy import FleetPolicy, evaluate
from lwplugin.registry import Listed
from lwplugin.serve.pages.decisions import DecisionLogs
from lwplugin.serve.pages.site import Site, Source
from lwplugin.serve.pages.survey import Fleet, survey

RUNS = 3
POLICY = FleetPolicy.model_validate(
    {
        "rules": [
            {"name": "edge", "budget": {"p95_ms": 2, "size_bytes": 900_000}, "max_drop": {"accuracy": 0.02}},
            {"name": "live", "aliases": "champion", "budget": {"p95_ms": 1.5}},
        ]
    }
)


def listing(count: int, models: int) -> list[Listed]:
    """Light versions spread evenly over the models; a quarter breaks a budget."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        p95 = draw.uniform(0.5, 2.5)
        tags = {
            "digest": f"{number:064x}",
            "target": "edge-cpu",
            "verdict": "pass",
            "size_bytes": str(draw.randint(50_000, 900_000)),
            "p95_ms": f"{p95:.6g}",
            "p95_high_ms": f"{p95 * 1.02:.6g}",
            "accuracy": f"{draw.uniform(0.8, 0.92):.6g}",
            "parent_accuracy": "0.92",
            "accuracy_drop_high": "0.015",
        }
        version = number // models + 1
        aliases = ("champion",) if version == count // models else ()
        named = {f"lwplugin.{key}": value for key, value in tags.items()}
        name = f"net-{number % models:05}"
        found.append(Listed(name=name, version=version, aliases=aliases, tags=named))
    return sorted(found, key=lambda one: (one.name, one.version))


def best_s(action: Callable[[], object]) -> float:
    """CPU time of the cheapest of some runs: what the work costs, without the neighbours."""
    times = []
    for _ in range(RUNS):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def surveyed(versions: list[Listed]) -> Fleet:
    """What the reconciler does for the pages."""
    findings = evaluate(POLICY, versions, today=datetime.date(2026, 11, 24))
    return survey(versions, findings, taken_s=1.0)


def client_of(fleet: Fleet) -> TestClient:
    source = Source(
        fleet=lambda: fleet,
        jobs=lambda most: [],
        job_counts=lambda: {},
        decisions=DecisionLogs(lambda name: []),
    )
    return TestClient(Starlette(routes=Site(source).routes()))


def main() -> None:
    print("versions  models  evaluate + survey s  its memory MiB  / ms  /models/… ms")
    for count in (1_000, 10_000):
        for models in (count, count // 100, 1):
            versions = listing(count, models)
            tracemalloc.start()
            fleet = surveyed(versions)
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            taken_s = best_s(partial(surveyed, versions))
            client = client_of(fleet)
            paths = ("/", f"/models/{fleet.models[0].name}")
            start, model = (best_s(partial(client.get, path)) * 1000 for path in paths)
            print(f"{count:8,}  {models:6,}  {taken_s:19.2f}  {peak:14.1f}  {start:4.0f}  {model:12.0f}")


if __name__ == "__main__":
    main()
