"""A registry on sqlite with the digits parent, trained for two epochs by the example's own script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def main_job_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process needs to find the registry; FOLDER is where relative paths start."""
    folder = tmp_path_factory.mktemp("main-job")
    script = ROOT / "examples" / "digits" / "train_and_register.py"
    environment = {
        **os.environ,
        "FOLDER": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), "--epochs", "2"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture
def folder(main_job_environment: dict[str, str]) -> Path:
    return Path(main_job_environment["FOLDER"])
