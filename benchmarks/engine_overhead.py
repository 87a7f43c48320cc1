"""What Kubeflow and Prefect cost beyond the steps' own work, and planning and compiling for many models.

python benchmarks/engine_overhead.py overhead     # digits, every engine, an own store each (minutes)
python benchmarks/engine_overhead.py plan 1000    # plans and pipelines of that many models
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECIPE = """\
model: models:/{name}@champion
data: {{source: digits, test_fraction: 0.4}}
compress:
  - prune: {{method: taylor, macs: 0.5, finetune_epochs: 1}}
  - quantize: {{method: int8, calibrator: minmax}}
targets: [{{name: edge-cpu}}]
gate: {{max_drop: {{accuracy: 0.1}}, no_faster: allow}}
register: {{alias: "light-{{target}}"}}
"""
CLI = [sys.executable, "-c", "from lwplugin.cli import main; main()"]


def overhead() -> None:
    """Seconds of a whole run, of its steps, and what is left a step; made anew, then all found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        }
        train = HERE.parent / "examples" / "digits" / "train_and_register.py"
        subprocess.run([sys.executable, str(train), "--epochs", "2"], cwd=folder, env=environment, check=True)
        (folder / "recipe.yaml").write_text(RECIPE.format(name="digits-cnn"))
        print("engine     state   whole run   its steps   CPU    beyond, a step")
        for engine in ("local", "prefect", "kubeflow"):
            for state in ("made", "found"):
                took_s, cpu_s, document = timed(engine, folder, environment)
                steps = document["steps"]
                work_s = sum(step["seconds"] for step in steps)
                beyond_s = (took_s - work_s) / len(steps)
                print(
                    f"{engine:<9}  {state:<6}  {took_s:7.1f} s  {work_s:8.1f} s  {cpu_s:5.1f} s  {beyond_s:5.2f} s",
                    flush=True,
                )


def timed(engine: str, folder: Path, environment: dict[str, str]) -> tuple[float, float, dict[str, Any]]:
    """(wall seconds, CPU seconds, what the command answered)."""
    command = [*CLI, "run", "recipe.yaml", "--engine", engine, "--store", str(folder / engine), "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    took_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took_s, cpu_s, json.loads(done.stdout)


def plans(count: int) -> None:
    """Seconds and memory to plan ``count`` models, to compile one pipeline for all, and one for each."""
    from lwplugin.pipelines.kubeflow.compile import Deployment, compile_plan
    from lwplugin.pipelines.kubeflow.ready import compile_batch
    from lwplugin.pipelines.plan import make_plan

    from lwplugin.recipe_file import parse_recipe
    from lwplugin.registry import Resolved

    parse_recipe(RECIPE.format(name="warm-up"))
    began = time.perf_counter()
    made = []
    for number in range(count):
        recipe = parse_recipe(RECIPE.format(name=f"net-{number}"))
        parent = Resolved(
            name=f"net-{number}", version="1", uri=f"models:/net-{number}/1", source="models:/m-1"
        )
        made.append(make_plan(recipe, parent))
    print(f"read and plan {count} recipes    {time.perf_counter() - began:7.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        began = time.perf_counter()
        late = Deployment(at_start=True)
        compile_batch(made[0], late, file, models=[plan.parent.uri for plan in made])
        kilobytes = file.stat().st_size / 1000
        print(f"compile one loop over {count}    {time.perf_counter() - began:7.1f} s, {kilobytes:.0f} kB")
        began = time.perf_counter()
        few = made[: min(count, 20)]
        for plan in few:
            compile_plan(plan, late, file)
        each_s = (time.perf_counter() - began) / len(few)
        print(f"compile one pipeline each    {each_s:7.2f} s a model (of {len(few)})")
    print(f"peak memory    {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["plan"]:
        plans(int(sys.argv[2]))
    else:
        overhead()
