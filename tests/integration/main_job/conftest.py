from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def at_home(main_job_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process stands where the digits parent is registered, with a store of its own under ``tmp_path``."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", main_job_environment["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("LWPLUGIN_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(main_job_environment["FOLDER"])
