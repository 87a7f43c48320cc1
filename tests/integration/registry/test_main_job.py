"""Pull, register, serve, compress again: on each kind of registry a team may have."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwplugin import registry
from lwplugin.model import load

BACKENDS = ["sqlite_uri", "server_uri", "postgres_uri", "postgres_server_uri"]
PULL_ELSEWHERE = """
import sys
from pathlib import Path
from lwplugin import registry
bundle = registry.pull(registry.resolve(sys.argv[1]), Path(sys.argv[2]))
from lwplugin.model import load
print(load(bundle).source.digest)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_pull_register_serve_and_pull_again(
    backend: str,
    request: pytest.FixtureRequest,
    log_parent: Callable[..., str],
    trained: torch.nn.Module,
    exported: Path,
    report: Path,
    verdict: Callable[..., dict[str, Any]],
    metrics: dict[str, float],
    servers: Any,
    digits: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    uri: str = request.getfixturevalue(backend)
    name = log_parent(uri, name=f"digits-{backend}")

    parent = registry.resolve(f"models:/{name}@champion", tracking_uri=uri)
    assert (parent.uri, parent.alias) == (f"models:/{name}/1", "champion")
    assert parent.model_id is not None
    bundle = registry.pull(parent, tmp_path / "pulled", tracking_uri=uri)
    light = load(bundle)
    x = torch.from_numpy(digits.images[:20])
    assert torch.equal(light.module(x), trained(x))
    assert light.source is not None
    assert light.source.uri == parent.uri
    assert light.signature is not None
    assert light.signature["inputs"][0]["tensor-spec"]["shape"] == [-1, 1, 8, 8]

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
        "params": {"compress": [{"prune": {"macs": 0.5}}]},
        "data_digest": "cd" * 32,
        "tracking_uri": uri,
    }
    made = registry.register(**arguments)
    again = registry.register(**arguments)
    assert (made.created, again.created) == (True, False)
    assert (made.uri, again.uri) == (f"models:/{name}/2",) * 2
    assert registry.resolve(f"models:/{name}@light-edge-cpu", tracking_uri=uri).version == "2"

    client = mlflow.MlflowClient(uri)
    assert len(client.search_model_versions(f"name='{name}'")) == 2
    assert made.tags["lwplugin.parent_version"] == parent.uri
    assert made.tags["lwplugin.parent_digest"] == light.source.digest
    assert made.tags["lwplugin.recipe_digest"] == "ab" * 32
    assert made.tags["lwplugin.verdict"] == "pass"
    assert made.tags["lwplugin.p50_ms"] == "0.21"
    run = client.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == metrics
    assert run.data.params["compress.0.prune.macs"] == "0.5"
    assert [model.model_id for model in run.inputs.model_inputs] == [parent.model_id]
    assert [model.model_id for model in run.outputs.model_outputs] == [made.model_id]
    assert {entry.path for entry in client.list_artifacts(made.run_id, "report")} >= {"report/report.html"}
    assert [v.uri for v in registry.ancestors(made.uri, tracking_uri=uri)] == [made.uri, parent.uri]
    everything = json.dumps([run.to_dictionary(), made.model_dump(), parent.model_dump()], default=str)
    assert servers.password not in everything
    assert servers.password not in "".join(p.read_text("utf-8", "ignore") for p in tmp_path.rglob("*.json"))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    served = mlflow.pyfunc.load_model(f"models:/{name}@light-edge-cpu")
    answered = served.predict(digits.images[:20])
    before = mlflow.pyfunc.load_model(parent.uri).predict(digits.images[:20])
    np.testing.assert_allclose(answered, before, rtol=1e-4, atol=1e-5)
    assert served.metadata.signature == mlflow.models.get_model_info(parent.uri).signature
    with pytest.raises(mlflow.MlflowException, match="Shape of input"):
        served.predict(digits.images[:2, :, :4])

    second = registry.resolve(made.uri)
    twice = load(registry.pull(second, tmp_path / "again"))
    assert torch.equal(twice.module(x), trained(x))
    assert twice.source is not None
    assert twice.source.uri == made.uri
    command = [sys.executable, "-c", PULL_ELSEWHERE, made.uri, str(tmp_path / "elsewhere")]
    there = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert there.stdout.split()[-1] == twice.source.digest


@pytest.mark.slow
def test_mlflow_models_serve_answers_a_request(
    sqlite_uri: str,
    log_parent: Callable[..., str],
    exported: Path,
    verdict: Callable[..., dict[str, Any]],
    metrics: dict[str, float],
    servers: Any,
    digits: Any,
    tmp_path: Path,
) -> None:
    name = log_parent(sqlite_uri)
    parent = registry.resolve(f"models:/{name}@champion", tracking_uri=sqlite_uri)
    bundle = registry.pull(parent, tmp_path / "pulled", tracking_uri=sqlite_uri)
    made = registry.register(
        parent=parent,
        bundle=bundle,
        exported=exported,
        verdict=verdict(exported),
        target="edge-cpu",
        recipe_digest="ab" * 32,
        metrics=metrics,
        tracking_uri=sqlite_uri,
    )
    port, log = servers.free_port(), tmp_path / "serve.log"
    command = f"-m mlflow models serve -m {made.uri} --env-manager local --host 127.0.0.1 --port {port}"
    process = servers.start([sys.executable, *command.split()], log, MLFLOW_TRACKING_URI=sqlite_uri)
    try:
        servers.wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps({"inputs": digits.images[:200].tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            predictions = np.asarray(json.load(answer)["predictions"])
    finally:
        servers.stop(process)
    assert predictions.shape == (200, 10)
    assert (predictions.argmax(1) == digits.labels[:200]).mean() > 0.8
