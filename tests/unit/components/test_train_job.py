"""A step on two nodes. No cluster: a server stands for Kubernetes' API and starts the job's two launchers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lwplugin.components import step_named
from lwplugin.components.step import Artifact, execute
from lwplugin.components.train_job import TrainJob

import lwplugin
from lwplugin.artifact import Store
from lwplugin.data import load
from lwplugin.errors import MethodError, StoreError
from lwplugin.resources import Resources

NETWORKS = Path(__file__).parents[2] / "contract"
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"


class Cluster(BaseHTTPRequestHandler):
    """Takes one TrainJob at a time; its nodes are processes here."""

    folder: Path
    jobs: list[dict[str, Any]]
    nodes: list[subprocess.Popen[bytes]]
    seen: list[str]

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job["metadata"]["name"] = job["metadata"]["generateName"] + "x"
        self.jobs.append(job)
        trainer = job["spec"]["trainer"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = [sys.executable, "-m", "torch.distributed.run", *trainer["command"][1:]]
        for rank in range(trainer["numNodes"]):
            told = {  # what the torch-distributed runtime puts into its pods
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                **{each["name"]: each["value"] for each in trainer["env"]},
            }
            self.nodes.append(
                subprocess.Popen(program, env={**os.environ, **told}, stderr=subprocess.DEVNULL)
            )
        self._answer(job)

    def do_GET(self) -> None:
        codes = [node.poll() for node in self.nodes]
        job = {**self.jobs[-1], "status": {"jobsStatus": [{"name": "node", "succeeded": codes.count(0)}]}}
        if any(codes):
            job["status"]["conditions"] = [
                {"type": "Failed", "status": "True", "message": f"exit codes {codes}"}
            ]
        elif None not in codes:
            job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
        self._answer(job)

    def do_DELETE(self) -> None:
        for node in self.nodes:
            node.kill()
            node.wait()
        self.nodes.clear()
        self._answer({})

    def _answer(self, content: dict[str, Any]) -> None:
        self.seen.append(f"{self.command} {self.path}")
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Cluster]]:
    class Mine(Cluster):
        jobs, nodes, seen = [], [], []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    for name, value in {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PYTHONPATH": str(NETWORKS),
        "OMP_NUM_THREADS": "1",
        "LWPLUGIN_POLL_S": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    yield Mine
    server.shutdown()


def asked(volume: Path, **more: Any) -> str:
    resources = Resources.model_validate(
        {"nodes": 2, "volumes": [{"claim": "store", "path": str(volume)}], **more}
    )
    return TrainJob(image="lwplugin:gpu", namespace="team", resources=resources).model_dump_json()


@pytest.mark.slow
def test_two_nodes_carry_out_a_step(
    cluster: type[Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(NETWORKS))
    import networks

    torch.manual_seed(0)
    origin = lwplugin.FactoryOrigin("networks:Residual", {})
    lwplugin.light(networks.Residual().eval(), origin=origin).save(tmp_path / "pulled" / "bundle")
    inputs, store, step = (
        {"bundle": Artifact.of(tmp_path / "pulled")},
        Store(tmp_path / "store"),
        step_named("prune"),
    )
    given = {"data": {"source": "digits"}, "task": "classification", "method": "magnitude"}
    options = {"macs": 0.6, "finetune_epochs": 2, "finetune_lr": 5e-3, "collapse": 0.0}
    config = step.config.model_validate({**given, "options": options})
    monkeypatch.setenv("LWPLUGIN_TRAIN_JOB", asked(tmp_path))
    done = execute(step, config, inputs, store)
    light = lwplugin.load(done.path / "bundle")
    assert light.history[-1].metrics["finetune_steps"] > 0
    example = load(given["data"], "classification").example(2)
    assert light.cost(example).macs < 0.62 * lwplugin.load(tmp_path / "pulled" / "bundle").cost(example).macs
    assert [line.split()[0] for line in cluster.seen if not line.startswith("GET")] == ["POST", "DELETE"]
    assert cluster.seen[0] == f"POST {JOBS}"
    assert not list((tmp_path / "store").glob("work/*"))

    wrong = step.config.model_validate({**given, "options": {"macs": 0.6, "skip": ["no-such-layer"]}})
    with pytest.raises(MethodError, match="no-such-layer"):
        execute(step, wrong, inputs, store)
    assert cluster.seen[-1] == f"DELETE {JOBS}/lwplugin-x"

    monkeypatch.setenv("LWPLUGIN_TRAIN_JOB", asked(Path("/elsewhere")))
    with pytest.raises(StoreError, match="on a volume that they share"):
        execute(step, wrong, inputs, store)


def test_the_job_says_all_that_the_recipe_says(tmp_path: Path) -> None:
    more = {
        "processes": 4,
        "accelerator": "nvidia.com/gpu",
        "count": 4,
        "memory": "64Gi",
        "env": {"A": "1"},
        "secrets": {"TOKEN": "mlflow/token"},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "image_pull_secrets": ["registry"],
    }
    job = TrainJob.model_validate_json(asked(tmp_path, **more)).manifest(tmp_path / "job.json")
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert trainer["command"] == ["torchrun", "-m", "lwplugin.components.several", str(tmp_path / "job.json")]
    assert trainer["resourcesPerNode"] == {"limits": {"memory": "64Gi", "nvidia.com/gpu": "4"}}
    assert {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "mlflow", "key": "token"}}} in trainer[
        "env"
    ]
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "volume-0", "persistentVolumeClaim": {"claimName": "store"}}]
    assert pod["containers"] == [
        {"name": "node", "volumeMounts": [{"name": "volume-0", "mountPath": str(tmp_path)}]}
    ]
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
