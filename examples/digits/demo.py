"""The main job on real input, from nothing: train, register, lighten, prove, register back, serve, compare.

python examples/digits/demo.py demo      # everything it makes lies in ./demo
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "recipe.yaml"
ANSWERS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, numpy as np
images, labels = np.load(sys.argv[2]), np.load(sys.argv[3])
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = np.asarray(model.predict(images)).argmax(1)
plugins = {"lwplugin", "lwplugin.errors", "lwplugin.run_context"}  # what MLflow itself imports by our entry points
ours = {name for name in sys.modules if name.split(".")[0] == "lwplugin"} - plugins
loaded = sorted(ours | ({"torch"} & set(sys.modules)))
print(json.dumps({"right": int((answers == labels).sum()), "n": len(labels),
                  "first": [answers[:12].tolist(), labels[:12].tolist()], "loaded": loaded}))
"""


def main() -> int:
    """Answers with `lwplugin run`'s exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "LWPLUGIN_STORE": str(folder / "store"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore",
    }
    began = time.monotonic()

    trained = folder / "registered.json"
    if trained.is_file():
        say(f"1. {json.loads(trained.read_text())['uri']} is registered already")
    else:
        say("1. Train a network on scikit-learn's digits and register it")
        script = [sys.executable, str(HERE / "train_and_register.py"), "--result", str(trained)]
        subprocess.run(script, cwd=folder, env=environment, check=True)

    say(f"2. lwplugin run {os.path.relpath(RECIPE)}")
    command = [sys.executable, "-c", "from lwplugin.cli import main; main()", "run", str(RECIPE)]
    command += ["--report", str(folder / "report"), "--json"]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if not done.stdout:
        return done.returncode
    run = json.loads(done.stdout)
    summary = run["targets"]["edge-cpu"]

    registration = summary["registration"]
    if registration is not None:
        uri = f"models:/{registration['name']}@{registration['alias']}"
        say(f"3. Load {uri} with plain mlflow.pyfunc in a fresh process and predict")
        served = answers(uri, folder, environment)
        guessed, labels = served["first"]
        print(f"   answers {guessed}\n   digits  {labels}")
        print(f"   {served['right']} of {served['n']} test digits right; ", end="")
        held = ", ".join(served["loaded"]) or "neither torch nor lwplugin, but for its MLflow plugin"
        print(f"loaded besides mlflow: {held}")

    say(f"4. Parent and light, side by side (all in {time.monotonic() - began:.0f} s)")
    from lwplugin.cli.tables import target_table

    print(target_table("edge-cpu", summary))
    return done.returncode


def answers(uri: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a process that only has mlflow and the runtime says about the test digits."""
    images, labels = folder / "test_images.npy", folder / "test_labels.npy"
    if not labels.is_file():
        import numpy as np

        import lwplugin

        recipe = lwplugin.load_recipe(RECIPE)
        split = lwplugin.data.load(recipe.data, recipe.task).need("test")
        batch = next(split.batches(len(split)))
        np.save(images, batch.inputs.numpy())
        np.save(labels, batch.targets.numpy())
    command = [sys.executable, "-c", ANSWERS, uri, str(images), str(labels)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def say(text: str) -> None:
    """A heading."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
