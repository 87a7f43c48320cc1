"""`lwplugin check` over a real MLflow registry of 1,000 and 10,000 versions: CPU time, memory, growth.

python benchmarks/check_registry.py

The registry is MLflow's own sqlite store, its rows written in bulk; the command runs as a process, as in CI.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleet_page import POLICY, listing

from lwplugin.registry import Listed, inventory

_RUN = """
import json, resource, sys
from lwplugin.cli import invoke
code = invoke(["check", "--policy", sys.argv[1], "--json"])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), file=sys.stderr)
"""


def fill(uri: str, versions: list[Listed]) -> None:
    """What registrations would have written."""
    from mlflow import MlflowClient
    from mlflow.store.model_registry.dbmodels import models as tables
    from sqlalchemy import create_engine

    MlflowClient(uri).search_registered_models()  # makes the tables
    engine = create_engine(uri)
    now = int(time.time() * 1000)
    names = sorted({version.name for version in versions})
    numbered = [(v, {"name": v.name, "version": v.version}) for v in versions]
    with engine.begin() as connection:
        for table, rows in (
            (tables.SqlRegisteredModel, [{"name": name, "creation_time": now} for name in names]),
            (
                tables.SqlModelVersion,
                [
                    {**key, "creation_time": now, "status": "READY", "source": "models:/m-0"}
                    for _, key in numbered
                ],
            ),
            (
                tables.SqlModelVersionTag,
                [
                    {**key, "key": name, "value": value}
                    for v, key in numbered
                    for name, value in v.tags.items()
                ],
            ),
            (
                tables.SqlRegisteredModelAlias,
                [{**key, "alias": alias} for v, key in numbered for alias in v.aliases],
            ),
        ):
            connection.execute(table.__table__.insert(), rows)
    engine.dispose()


def cpu_s(uri: str) -> float:
    """Of reading the registry alone."""
    began = time.process_time()
    inventory(tracking_uri=uri)
    return time.process_time() - began


def main() -> None:
    print("versions  check: CPU s  of it reading s  memory MiB  exit  findings")
    for count in (1, 1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            uri, policy = f"sqlite:///{folder}/mlflow.db", Path(folder, "policy.yaml")
            policy.write_text(
                json.dumps({"rules": POLICY.model_dump(mode="json")["rules"]})
            )  # YAML holds JSON
            fill(uri, listing(count, max(1, count // 100)))
            command = [sys.executable, "-c", _RUN, str(policy)]
            environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            code, used_s, peak = json.loads(done.stderr.splitlines()[-1])
            findings = len(json.loads(done.stdout)["findings"])
            print(
                f"{count:8,}  {used_s:12.1f}  {cpu_s(uri):15.1f}  {peak:10,.0f}  {code:4}  {findings:8,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
