"""CPU time of the same job done by lwplugin and by Microsoft Olive: ONNX, static int8, accuracy and latency.

    python -m venv olive && olive/bin/pip install torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 onnxscript \\
        olive-ai==0.13.0 requests "pydantic<2.12"
    python benchmarks/olive_resnet20.py --weights resnet20.pt --olive olive

The same Fashion-MNIST ResNet-20, the same 512 calibration and 10,000 test images, both evaluating the parent beside
the int8 file. Olive runs `OnnxConversion` + `OnnxStaticQuantization` (QDQ, per channel, reduced range) with its
accuracy and latency metrics; lwplugin runs a recipe of one `quantize` line, gate, report and registration included.
Each is one process with its children, timed by the kernel's own count; both run with `OMP_WAIT_POLICY=passive`, so that
threads that wait for a busy machine do not count as work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "fashion-resnet20"
sys.path.insert(0, str(EXAMPLE))

import lwplugin  # noqa: E402
from lwplugin.data import Split, load  # noqa: E402

CALIBRATION = 512
RECIPE = """
model: models:/fashion-resnet20@champion
data: {{source: fashion_mnist, calibration: {calibration}}}
task: classification
compress:
  - quantize: {{method: int8, calibrator: minmax}}
targets:
  - {{name: cpu, format: onnx, threads: 1, batch: 1}}
gate: {{max_drop: {{accuracy: 0.01}}, no_faster: allow}}
register: {{alias: "light-{{target}}"}}
"""
USER_SCRIPT = """
import sys
import numpy as np, torch
from olive.data.registry import Registry

sys.path.insert(0, {example!r})

class Images(torch.utils.data.Dataset):
    def __init__(self, path, n):
        held = np.load(path)
        self.x, self.y = torch.from_numpy(held["x"][:n]), torch.from_numpy(held["y"][:n])

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {{"images": self.x[i]}}, self.y[i]

@Registry.register_dataset()
def images(path, n, **_):
    return Images(path, n)

@Registry.register_post_process()
def argmax(output, **_):
    return (output if isinstance(output, torch.Tensor) else next(iter(output.values()))).argmax(-1)

def load_model(path):
    from resnet20 import ResNet20
    net = ResNet20()
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()
"""


def olive_config(folder: Path, weights: Path) -> dict[str, Any]:
    """The workflow, over the arrays that lie in ``folder``."""
    script = str(folder / "user.py")

    def data(name: str, file: str, n: int, batch: int) -> dict[str, Any]:
        return {
            "name": name,
            "user_script": script,
            "load_dataset_config": {"type": "images", "params": {"path": str(folder / file), "n": n}},
            "dataloader_config": {"params": {"batch_size": batch}},
            "post_process_data_config": {"type": "argmax"},
        }

    accuracy = {
        "name": "accuracy_score",
        "priority": 1,
        "metric_config": {"task": "multiclass", "num_classes": 10},
        "goal": {"type": "max-degradation", "value": 0.01},
    }
    return {
        "input_model": {
            "type": "PyTorchModel",
            "model_path": str(weights.resolve()),
            "model_loader": "load_model",
            "model_script": script,
            "io_config": {
                "input_names": ["images"],
                "input_shapes": [[1, 1, 28, 28]],
                "output_names": ["y"],
                "dynamic_axes": {"images": {"0": "batch"}, "y": {"0": "batch"}},
            },
        },
        "systems": {
            "local": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            data("calibration", "calibration.npz", CALIBRATION, 64),
            data("test", "test.npz", 10_000, 100),
            data("one", "test.npz", 64, 1),
        ],
        "evaluators": {
            "both": {
                "metrics": [
                    {
                        "name": "accuracy",
                        "type": "accuracy",
                        "backend": "torch_metrics",
                        "data_config": "test",
                        "sub_types": [accuracy],
                    },
                    {
                        "name": "latency",
                        "type": "latency",
                        "data_config": "one",
                        "sub_types": [{"name": "avg", "priority": 2}],
                    },
                ]
            }
        },
        "passes": {
            "conversion": {"type": "OnnxConversion", "target_opset": 17},
            "quantization": {
                "type": "OnnxStaticQuantization",
                "data_config": "calibration",
                "quant_format": "QDQ",
                "per_channel": True,
                "reduce_range": True,
            },
        },
        "host": "local",
        "target": "local",
        "evaluator": "both",
        "evaluate_input_model": True,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }


def arrays(split: Split) -> dict[str, np.ndarray]:
    """All inputs and targets of a split, as one npz holds them."""
    batches = list(split.batches(500))
    return {
        "x": np.concatenate([b.inputs.numpy() for b in batches]),
        "y": np.concatenate([b.targets.numpy() for b in batches]),
    }


def timed(command: list[str], log: Path, **env: str) -> dict[str, Any]:
    """CPU seconds, wall seconds and exit code of a command with its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}
        ).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - began, "exit": code}


def main() -> None:
    """Prepare the inputs of both, run both, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="state dict of the example's ResNet-20")
    parser.add_argument("--olive", type=Path, required=True, help="virtual environment that has olive-ai")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
        from resnet20 import ResNet20
        from train_and_register import register

        data = load({"source": "fashion_mnist", "calibration": CALIBRATION}, "classification")
        net = ResNet20()
        net.load_state_dict(torch.load(options.weights, weights_only=True))
        os.chdir(folder)
        register(net.eval(), data)
        for split in ("calibration", "test"):
            np.savez(folder / f"{split}.npz", **arrays(data.need(split)))
        (folder / "user.py").write_text(USER_SCRIPT.format(example=str(EXAMPLE)))
        (folder / "olive.json").write_text(json.dumps(olive_config(folder, options.weights)))
        (folder / "recipe.yaml").write_text(RECIPE.format(calibration=CALIBRATION))

        ours = timed(
            [str(Path(sys.executable).parent / "lwplugin"), "run", "recipe.yaml", "--store", "store", "--quiet"],
            folder / "ours.log", MLFLOW_TRACKING_URI=uri, OMP_WAIT_POLICY="passive",
        )  # fmt: skip
        theirs = timed(
            [str(options.olive.resolve() / "bin" / "olive"), "run", "--config", "olive.json"],
            folder / "olive.log", OLIVE_DISABLE_TELEMETRY="1", OMP_WAIT_POLICY="passive",
        )  # fmt: skip
        if ours["exit"]:
            sys.exit((folder / "ours.log").read_text()[-3000:])
        theirs["found"] = json.loads((folder / "out" / "metrics.json").read_text())
        print(f"lwplugin {lwplugin.__version__}: {ours['cpu_s']:.0f} CPU s, {ours['wall_s']:.0f} s")
        print((folder / "ours.log").read_text()[-2500:])
        print(f"Olive: {theirs['cpu_s']:.0f} CPU s, {theirs['wall_s']:.0f} s, exit {theirs['exit']}")
        print(json.dumps(theirs["found"], indent=1))
        print(f"CPU time, lwplugin over Olive: {ours['cpu_s'] / theirs['cpu_s']:.2f}")


if __name__ == "__main__":
    main()
