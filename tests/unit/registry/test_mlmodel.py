from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lwplugin.errors import RegistryError
from lwplugin.registry import mlmodel


def write(directory: Path, text: str) -> Path:
    (directory / "MLmodel").write_text(text)
    return directory


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flavors: [", "cannot be read"),
        ("- a\n- b\n", "names no flavors: got list"),
        ("flavors: pytorch\n", "names no flavors"),
    ],
)
def test_a_damaged_mlmodel_is_a_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        mlmodel.read(write(tmp_path, text))


def test_a_directory_without_mlmodel_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    with pytest.raises(RegistryError, match=r"no MLmodel file: got \['model.pth'\]"):
        mlmodel.read(tmp_path)


@pytest.mark.parametrize(
    ("flavors", "expected"),
    [("{lwplugin: {}, python_function: {}}", "lwplugin"), ("{transformers: {}}", "transformers")],
)
def test_kind(tmp_path: Path, flavors: str, expected: str) -> None:
    assert mlmodel.kind(tmp_path, mlmodel.read(write(tmp_path, f"flavors: {flavors}\n"))) == expected


def test_a_pickled_module_and_a_traced_graph_are_told_apart(tmp_path: Path) -> None:
    content = mlmodel.read(write(tmp_path, "flavors: {pytorch: {model_data: data}}\n"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.pt2").touch()
    with pytest.raises(RegistryError, match="traced graph"):
        mlmodel.kind(tmp_path, content)
    (tmp_path / "data" / "model.pth").touch()
    assert mlmodel.kind(tmp_path, content) == "pytorch"


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ("{bundle: ../../etc}", "outside its directory"),
        ("{bundle: /etc}", "outside its directory"),
        ("{bundle: link}", "outside its directory"),
        ("{bundle: null}", "holds no bundle"),
        ("[]", "holds no bundle"),
    ],
)
def test_a_part_lies_inside_or_not_at_all(tmp_path: Path, ours: str, message: str) -> None:
    (tmp_path / "link").symlink_to("/")
    content = mlmodel.read(write(tmp_path, f"flavors: {{lwplugin: {ours}}}\n"))
    with pytest.raises(RegistryError, match=message):
        mlmodel.part(tmp_path, content, "bundle")


def test_a_signature_becomes_plain_json() -> None:
    from mlflow.models import infer_signature

    signature = infer_signature({"ids": np.zeros((2, 3), np.int64)}, np.zeros((2, 5), np.float32), {"top": 3})
    plain = mlmodel.signature_json({"signature": signature.to_dict()})
    assert plain is not None
    assert plain["inputs"][0]["name"] == "ids"
    assert plain["outputs"] == [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 5]}}]
    assert mlmodel.signature_json({"signature": None}) is None
