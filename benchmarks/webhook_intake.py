"""Deliveries a second that `lwplugin serve` takes in: sustained, at the peak, and while it is killed and restarted.

python benchmarks/webhook_intake.py [--seconds 15] [--rate 500] [--senders 32] [--database postgresql://…]

Then 10,000 generated deliveries, good, duplicated, stale, forged and malformed: how each was answered, and what
lies in the database. Everything is real: the command, HTTP over the loopback, the database; only the registry is not
there, so that what is measured is the intake. A sender comes again as MLflow does, with the same id, time and
signature, until it is answered. One machine sends and receives; CPU ms is the service's own, per delivery.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil
from sqlalchemy import create_engine, text

from lwplugin.secret import sign
from lwplugin.serve.signature import DELIVERY, SIGNATURE, TIMESTAMP

SECRET = "benchmark"
RECIPE = """\
model: models:/any@champion
data: {source: digits}
compress: [{quantize: {}}]
targets: [{name: edge-cpu}]
gate: {max_drop: {accuracy: 0.01}}
register: {alias: "light-{target}"}
"""
RULES = "rules: [{name: r, when: {models: nothing, alias: champion}, run: recipe.yaml}]\n"


class Service:
    """`lwplugin serve` on a port that stays the same over restarts."""

    def __init__(self, folder: Path, database: str | None) -> None:
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "serve.yaml").write_text(RULES)
        self.folder, self.database = folder, database or f"sqlite:///{folder}/serve.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.hook = f"http://127.0.0.1:{self.port}/webhooks/mlflow"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            nobody = closed.getsockname()[1]
        environment = {
            **os.environ,
            "LWPLUGIN_DATABASE_URL": self.database,
            "LWPLUGIN_STORE": str(self.folder / "store"),
            "LWPLUGIN_WEBHOOK_SECRET": SECRET,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{nobody}",
        }
        options = (
            f"--host 127.0.0.1 --port {self.port} --workers 0 --max-open 10000000 --reconcile-every 3600"
        )
        command = [sys.executable, "-c", "from lwplugin.cli import main; main()", "serve", "serve.yaml"]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options.split()], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError((self.folder / "serve.log").read_text()[-2000:])

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def cpu_s(self) -> float:
        """What the service has used: the machine's other work does not count."""
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stored(self) -> set[str]:
        engine = create_engine(self.database)
        with engine.connect() as connection:
            found = set(connection.execute(text("SELECT id FROM lwplugin_deliveries")).scalars())
        engine.dispose()
        return found


@dataclass
class Sent:
    """What one run sent; milliseconds until each was answered."""

    deliveries: list[Delivery] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def ended(self) -> Sent:
        self.seconds = time.perf_counter() - self.began
        return self


@dataclass(frozen=True)
class Delivery:
    kind: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers[DELIVERY]


def delivery(number: int, kind: str = "good") -> Delivery:
    """One event about a model of its own; `kind` says what is wrong with it."""
    data = {"name": f"model-{number}", "alias": "champion", "version": "1"}
    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()
    body = b"{}" if kind == "malformed" else body
    shift = {"stale": -3600, "of tomorrow": 3600}.get(kind, 0)
    identity, stamp = uuid.uuid4().hex, str(int(time.time()) + shift)
    signature = sign("guessed" if kind == "forged" else SECRET, identity, stamp, body)
    if kind == "unsigned":
        signature = ""
    if kind == "altered":
        body = body.replace(b"champion", b"produced")
    if kind == "other id":
        identity = uuid.uuid4().hex
    return Delivery(kind, {DELIVERY: identity, TIMESTAMP: stamp, SIGNATURE: signature}, body)


async def send(client: aiohttp.ClientSession, hook: str, one: Delivery) -> tuple[int, float]:
    """(status, milliseconds of the request that was answered); comes again where nobody answers or it is told to."""
    while True:
        began = time.perf_counter()
        try:
            async with client.post(hook, data=one.body, headers=one.headers) as answer:
                await answer.read()
            if answer.status not in (429, 503):
                return answer.status, (time.perf_counter() - began) * 1000
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.5)


def session(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))


async def closed_loop(hook: str, senders: int, seconds: float) -> Sent:
    """Each sender sends its next delivery when the last is answered: the peak."""
    found = Sent()
    async with session(senders) as client:

        async def sender() -> None:
            while time.perf_counter() - found.began < seconds:
                one = delivery(len(found.deliveries))
                found.deliveries.append(one)
                status, ms = await send(client, hook, one)
                assert status == 202
                found.took_ms.append(ms)

        await asyncio.gather(*(sender() for _ in range(senders)))
    return found.ended()


async def open_loop(
    hook: str, rate: float, seconds: float, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> Sent:
    """Deliveries come at a fixed rate whether the service keeps up or not; latency counts from when one was due."""
    found = Sent()
    tasks: list[asyncio.Task[None]] = []
    async with session(256) as client:

        async def one_sent(one: Delivery, due: float) -> None:
            status, _ = await send(client, hook, one)
            assert status == 202
            found.took_ms.append((time.perf_counter() - due) * 1000)

        other = asyncio.create_task(meanwhile()) if meanwhile is not None else None
        while (now := time.perf_counter()) - found.began < seconds:
            while (due := found.began + len(found.deliveries) / rate) <= now:
                one = delivery(len(found.deliveries))
                tasks.append(asyncio.create_task(one_sent(one, due)))
                found.deliveries.append(one)
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks, *([other] if other else []))
    return found.ended()


async def mixed(hook: str, count: int) -> tuple[list[Delivery], list[tuple[str, int]], set[str]]:
    """What each kind was answered, and the ids that should have been stored."""
    draw = random.Random(0)
    bad = ("stale", "of tomorrow", "forged", "unsigned", "altered", "other id", "malformed")
    made: list[Delivery] = []
    for number in range(count):
        roll = draw.random()
        if roll < 0.2 and made:  # the same delivery once more, as MLflow's retries send it
            again = draw.choice(made)
            made.append(
                Delivery(
                    "again" if again.kind in ("good", "again") else again.kind, again.headers, again.body
                )
            )
        else:
            made.append(delivery(number, "good" if roll < 0.6 else draw.choice(bad)))
    answers: list[tuple[str, int]] = []
    async with session(32) as client:
        waiting = iter(made)

        async def sender() -> None:
            for one in waiting:
                status, _ = await send(client, hook, one)
                answers.append((one.kind, status))

        await asyncio.gather(*(sender() for _ in range(32)))
    return made, answers, {one.id for one in made if one.kind in ("good", "again")}


def told(what: str, sent: Sent, stored: set[str], cpu_s: float | None) -> None:
    count = len(sent.deliveries)
    lost = len({one.id for one in sent.deliveries} - stored)
    p50, p99 = np.quantile(sent.took_ms, [0.5, 0.99])
    cpu = "" if cpu_s is None else f"{cpu_s / count * 1000:.2f}"
    print(
        f"{what:32}  {count:7,}  {count / sent.seconds:7,.0f}  {p50:8.1f}  {p99:8.1f}  {cpu:>7}  {lost:4}",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=15)
    options.add_argument("--rate", type=float, default=500)
    options.add_argument("--senders", type=int, default=32)
    options.add_argument("--mixed", type=int, default=10_000)
    options.add_argument("--database", help="default: sqlite in a temporary folder")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), given.database)
        service.start()
        service.wait()
        print(f"{'':32}  {'sent':>7}  {'per s':>7}  {'p50 ms':>8}  {'p99 ms':>8}  {'CPU ms':>7}  lost")
        before = service.cpu_s()
        peak = asyncio.run(closed_loop(service.hook, given.senders, given.seconds))
        told(f"peak, {given.senders} senders", peak, service.stored(), service.cpu_s() - before)
        before = service.cpu_s()
        steady = asyncio.run(open_loop(service.hook, given.rate, given.seconds))
        told(f"sustained at {given.rate:g} a second", steady, service.stored(), service.cpu_s() - before)

        async def killed() -> None:
            for _ in range(2):
                await asyncio.sleep(given.seconds / 4)
                service.kill()
                await asyncio.sleep(0.5)
                service.start()

        broken = asyncio.run(open_loop(service.hook, given.rate / 5, given.seconds, killed))
        told(f"killed twice, at {given.rate / 5:g} a second", broken, service.stored(), None)
        made, answers, expected = asyncio.run(mixed(service.hook, given.mixed))
        stored = service.stored()
        ours = {one.id for one in made}
        print(f"\n{given.mixed:,} generated deliveries (answers by kind)")
        for (kind, status), count in sorted(Counter(answers).items()):
            print(f"  {kind:12} {status}  {count:6,}")
        print(
            f"  wrongly accepted {len((stored & ours) - expected)}, wrongly dropped {len(expected - stored)}"
        )
        service.kill()


if __name__ == "__main__":
    main()
