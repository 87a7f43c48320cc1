from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
NAME = "digits"


@dataclass(frozen=True)
class Digits:
    images: np.ndarray  # [n, 1, 8, 8] float32
    labels: np.ndarray


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    return Digits((found.images[:, None] / 16).astype(np.float32), found.target)


@pytest.fixture(scope="session", autouse=True)
def _user_code() -> Iterator[None]:
    """The user's own module is importable while they train, as in a notebook's directory."""
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


@pytest.fixture(scope="session")
def trained(digits: Digits) -> torch.nn.Module:
    from digits_net import DigitsNet

    torch.manual_seed(0)
    net: torch.nn.Module = DigitsNet()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    x, y = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    for _ in range(4):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture
def log_parent(trained: torch.nn.Module, digits: Digits) -> Callable[..., str]:
    """Registers the trained net the way a user does; answers the model's name."""

    def log(uri: str, name: str = NAME, **options: Any) -> str:
        return _log(uri, name, trained, digits, **options)

    return log


def _log(uri: str, name: str, trained: torch.nn.Module, digits: Digits, **options: Any) -> str:
    import mlflow
    from mlflow.models import infer_signature

    example = digits.images[:3]
    with torch.no_grad():
        signature = infer_signature(example, trained(torch.from_numpy(example)).numpy())
    mlflow.set_tracking_uri(uri)
    defaults = {
        "name": "model",
        "serialization_format": "pickle",
        "code_paths": [str(HERE / "digits_net.py")],
        "pip_requirements": ["torch"],
        "input_example": example,
        "signature": signature,
    }
    try:
        mlflow.pytorch.log_model(trained, registered_model_name=name, **{**defaults, **options})
        client = mlflow.MlflowClient()
        latest = max(int(version.version) for version in client.search_model_versions(f"name='{name}'"))
        client.set_registered_model_alias(name, "champion", str(latest))
    finally:
        mlflow.end_run()
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    return name


@pytest.fixture(scope="session")
def exported(trained: torch.nn.Module, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net as an ONNX file with its description; what the export step leaves."""
    import lwplugin
    from lwplugin.data import from_arrays

    data = from_arrays(test=(digits.images, digits.labels))
    path = tmp_path_factory.mktemp("exported") / "export"
    lwplugin.export(trained, data, format="onnx", path=path, parity=False)
    return path


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    (directory / "report.html").write_text("<h1>report</h1>")
    (directory / "model_card.md").write_text("# card")
    return directory


@pytest.fixture(scope="session")
def verdict() -> Callable[..., dict[str, Any]]:
    """What the gate step leaves, sealed."""
    from lwplugin.export.base import load_exported
    from lwplugin.gate.policy import Budget, Policy
    from lwplugin.gate.verdict import Check, Status, Verdict

    def make(exported: Path, status: Status = "pass", **changes: Any) -> dict[str, Any]:
        check = Check(name="accuracy", status=status, metric="accuracy", message=f"Accuracy: {status}.")
        fields = {"candidate_digest": load_exported(exported).digest, "baseline_digest": "0" * 64, **changes}
        policy = Policy(max_drop={"accuracy": 0.01})
        return Verdict.of([check], flips=None, policy=policy, budget=Budget(), **fields).model_dump(
            mode="json"
        )

    return make


@pytest.fixture(scope="session")
def metrics() -> dict[str, float]:
    return {"accuracy": 0.95, "p50_ms": 0.21, "size_bytes": 20_000.0}


@dataclass(frozen=True)
class Prepared:
    """A registry with one parent, its pulled bundle, and what `register` is called with."""

    uri: str
    parent: Any
    arguments: dict[str, Any]

    def versions(self, name: str | None = None) -> list[int]:
        import mlflow

        client = mlflow.MlflowClient(self.uri)
        found = client.search_model_versions(f"name='{name or self.parent.name}'")
        return sorted(int(version.version) for version in found)

    def alias(self, alias: str) -> str | None:
        import mlflow

        found = mlflow.MlflowClient(self.uri).get_registered_model(self.parent.name).aliases.get(alias)
        return None if found is None else str(found)


@pytest.fixture(scope="session")
def _template(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, trained: torch.nn.Module, digits: Digits
) -> tuple[Path, Any, Path]:
    from lwplugin import registry

    root = tmp_path_factory.mktemp("prepared")
    shutil.copy(sqlite_template, root / "mlflow.db")
    uri = f"sqlite:///{root}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        _log(uri, NAME, trained, digits)
    parent = registry.resolve(f"models:/{NAME}@champion", tracking_uri=uri)
    return root / "mlflow.db", parent, registry.pull(parent, root / "bundle", tracking_uri=uri)


@pytest.fixture
def prepared(
    _template: tuple[Path, Any, Path],
    exported: Path,
    report: Path,
    verdict: Callable[..., dict[str, Any]],
    metrics: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Prepared:
    """A registry of its own for one test; the parent's artifacts are shared and only read."""
    database, parent, bundle = _template
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = {
        "parent": parent,
        "bundle": bundle,
        "exported": exported,
        "verdict": verdict(exported),
        "report": report,
        "target": "edge-cpu",
        "alias": "light-edge-cpu",
        "recipe_digest": "ab" * 32,
        "metrics": metrics,
        "tracking_uri": uri,
    }
    return Prepared(uri, parent, arguments)
