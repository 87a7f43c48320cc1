from __future__ import annotations

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
        import mlflow
        from mlflow.models import infer_signature

        example = digits.images[:3]
        with torch.no_grad():
            signature = infer_signature(example, trained(torch.from_numpy(example)).numpy())
        mlflow.set_tracking_uri(uri)
        try:
            mlflow.pytorch.log_model(
                trained,
                registered_model_name=name,
                **{
                    "name": "model",
                    "serialization_format": "pickle",
                    "code_paths": [str(HERE / "digits_net.py")],
                    "pip_requirements": ["torch"],
                    "input_example": example,
                    "signature": signature,
                    **options,
                },
            )
            client = mlflow.MlflowClient()
            latest = max(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
            client.set_registered_model_alias(name, "champion", str(latest))
        finally:
            mlflow.end_run()
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        return name

    return log


@pytest.fixture(scope="session")
def exported(trained: torch.nn.Module, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net as an ONNX file with its description; what the export step leaves."""
    import lwplugin
    from lwplugin.data import from_arrays

    data = from_arrays(train=(digits.images, digits.labels), test=(digits.images[:100], digits.labels[:100]))
    path = tmp_path_factory.mktemp("exported") / "export"
    lwplugin.export(trained, data, format="onnx", path=path, parity=False)
    return path


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    (directory / "report.html").write_text("<h1>report</h1>")
    (directory / "model_card.md").write_text("# card")
    return directory


def verdict(exported: Path, status: str = "pass", **changes: Any) -> dict[str, Any]:
    """What the gate step leaves, sealed."""
    from lwplugin.export.base import load_exported
    from lwplugin.gate.policy import Budget, Policy
    from lwplugin.gate.verdict import Check, Verdict

    check = Check(name="accuracy", status=status, metric="accuracy", message=f"Accuracy: {status}.")  # type: ignore[arg-type]
    fields = {"candidate_digest": load_exported(exported).digest, "baseline_digest": "0" * 64, **changes}
    policy = Policy(max_drop={"accuracy": 0.01})
    sealed = Verdict.of([check], flips=None, policy=policy, budget=Budget(), **fields)
    return sealed.model_dump(mode="json")


METRICS = {"accuracy": 0.95, "p50_ms": 0.21, "size_bytes": 20_000.0}
