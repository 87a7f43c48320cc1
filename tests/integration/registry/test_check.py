"""`lwplugin check` on a registry that a client wrote to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwplugin.cli import invoke
from lwplugin.registry import inventory

POLICY = """\
rules:
  - {name: edge, targets: edge-*, budget: {size_bytes: 100_000}, owner: edge-team}
  - {name: production, aliases: champion, max_drop: {accuracy: 0.02}, verdict: any, bounds: optional}
"""


@pytest.fixture
def add(sqlite_uri: str) -> Callable[..., str]:
    import mlflow

    client = mlflow.MlflowClient(sqlite_uri)

    def register(name: str, *aliases: str, **tags: Any) -> str:
        if name not in {model.name for model in client.search_registered_models()}:
            client.create_registered_model(name)
        written = {f"lwplugin.{key}": str(value) for key, value in tags.items()}
        version = client.create_model_version(name, source="/nowhere", tags=written)
        for alias in aliases:
            client.set_registered_model_alias(name, alias, version.version)
        return str(version.version)

    return register


@pytest.fixture
def check(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any]]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = invoke(["check", *arguments, "--json"])
        text = capsys.readouterr()
        return code, json.loads(text.out) if text.out else text.err

    return run


LIGHT = {"digest": "d", "target": "edge-cpu", "verdict": "pass", "size_bytes": 90_000}


def test_one_version_a_model_and_the_whole_registry(
    add: Callable[..., str], check: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    add("net", "light", **LIGHT)
    add("net", **{**LIGHT, "size_bytes": 140_000})
    add("other", **LIGHT)
    assert check("models:/net/1")[0] == 0
    assert check("models:/net@light")[0] == 0
    assert check("other")[0] == 0
    code, found = check("models:/net/2")
    assert code == 1
    (broken,) = [finding for finding in found["findings"] if finding["status"] == "fail"]
    assert (broken["excess"], broken["instead"], broken["owner"]) == (40_000, "models:/net/1", "edge-team")
    outputs = ["--junit", "j.xml", "--sarif", "s.json", "--markdown", "m.md"]
    code, found = check(*outputs)
    assert (code, found["versions"]) == (1, 3)
    assert all("models:/net/2" in (tmp_path / name).read_text() for name in outputs[1::2])


def test_a_champion_nobody_measured_is_not_passed_over(
    add: Callable[..., str], check: Callable[..., tuple[int, Any]]
) -> None:
    add("net", "champion")
    assert check("models:/net@champion")[0] == 3
    add("net", "champion", **LIGHT, accuracy=0.95, parent_accuracy=0.96)
    assert check("models:/net@champion")[0] == 0
    assert check("models:/net/1", "--as-alias", "champion")[0] == 3


def test_what_does_not_exist_is_an_error(
    add: Callable[..., str], check: Callable[..., tuple[int, Any]]
) -> None:
    add("net", **LIGHT)
    code, said = check("models:/nett")
    assert (code, "did you mean 'net'?" in said) == (2, True)
    assert check("models:/net/7")[0] == 2
    assert check("--policy", "absent.yaml")[0] == 2


def test_the_inventory_reads_past_a_page(
    add: Callable[..., str], sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwplugin.registry.listing._VERSIONS_A_PAGE", 2)
    monkeypatch.setattr("lwplugin.registry.listing._MODELS_A_PAGE", 1)
    for name in ("a", "b"):
        for _ in range(3):
            add(name, "newest", **LIGHT)
    found = [(each.name, each.version, each.aliases) for each in inventory(tracking_uri=sqlite_uri)]
    newest = ("newest",)
    assert found == [(n, v, newest if v == 3 else ()) for n in "ab" for v in (1, 2, 3)]
