"""A step on several nodes: a Kubeflow Trainer job (trainer.kubeflow.org/v1alpha1) runs it, this process waits.

The job's pods and this one share a volume with the store on it: the job's description, the inputs and the output pass
through it. The nodes run the program that several processes on one machine run (`several.py`), under the torchrun
settings that the runtime puts into their environment.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwplugin.components.several import Job, what_went_wrong
from lwplugin.components.step import Step, StepConfig
from pydantic import BaseModel, ConfigDict, Field

from lwplugin.errors import LwpluginError, MissingExtraError, StoreError
from lwplugin.progress import Progress
from lwplugin.resources import Resources

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGER = "lwplugin.io/step"
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POLL_S = 5.0


class TrainJob(BaseModel):
    """What a Trainer job of a step needs; as JSON in LWPLUGIN_TRAIN_JOB, where the compiler puts it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    runtime: str = Field("torch-distributed", description="ClusterTrainingRuntime")
    namespace: str | None = Field(None, description="default: this pod's")
    resources: Resources

    def manifest(self, job: Path) -> dict[str, Any]:
        """The TrainJob that carries out what `job` describes."""
        given = self.resources
        claims = [
            {"name": f"volume-{place}", "persistentVolumeClaim": {"claimName": volume.claim}}
            for place, volume in enumerate(given.volumes)
        ]
        mounts = [
            {
                "name": f"volume-{place}",
                "mountPath": volume.path,
                **({"subPath": volume.sub_path} if volume.sub_path else {}),
            }
            for place, volume in enumerate(given.volumes)
        ]
        pod: dict[str, Any] = {
            "volumes": claims,
            "containers": [{"name": "node", "volumeMounts": mounts}],
            "nodeSelector": dict(given.node_selector),
            "tolerations": [each.model_dump(exclude_none=True) for each in given.tolerations],
            "imagePullSecrets": [{"name": name} for name in given.image_pull_secrets],
        }
        template = {"spec": {"template": {"spec": {name: value for name, value in pod.items() if value}}}}
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "TrainJob",
            "metadata": {"generateName": "lwplugin-"},
            "spec": {
                "runtimeRef": {"name": self.runtime},
                "trainer": {
                    "image": self.image,
                    "numNodes": given.nodes,
                    "numProcPerNode": given.processes or 1,
                    "command": ["torchrun", "-m", "lwplugin.components.several", str(job)],
                    "env": self._environment(),
                    **({"resourcesPerNode": {"limits": hardware}} if (hardware := self._hardware()) else {}),
                },
                "runtimePatches": [
                    {
                        "manager": MANAGER,
                        "trainingRuntimeSpec": {
                            "template": {"spec": {"replicatedJobs": [{"name": "node", "template": template}]}}
                        },
                    }
                ],
            },
        }

    def _environment(self) -> list[dict[str, Any]]:
        plain = [{"name": name, "value": value} for name, value in self.resources.env.items()]
        secret = []
        for name, reference in self.resources.secrets.items():
            holder, _, key = reference.partition("/")
            secret.append({"name": name, "valueFrom": {"secretKeyRef": {"name": holder, "key": key}}})
        return plain + secret

    def _hardware(self) -> dict[str, str]:
        given = self.resources
        found = {"cpu": given.cpu, "memory": given.memory}
        if given.accelerator is not None:
            found[given.accelerator] = str(given.count)
        return {name: value for name, value in found.items() if value is not None}


def run_on_nodes(
    step: Step,
    config: StepConfig,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    scratch: Path,
    progress: Progress,
    asked: TrainJob,
) -> None:
    """Carry ``step`` out as a Trainer job. Raises what the step raises in the job's first process."""
    if not any(output.is_relative_to(volume.path) for volume in asked.resources.volumes):
        raise StoreError(
            "A step on several nodes needs its store on a volume that they share",
            got=f"{output.parent} is on none of {[volume.path for volume in asked.resources.volumes]}",
            do="give `volumes` to all steps and set LWPLUGIN_STORE to a place on one",
        )
    folder = scratch / "train-job"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = {name: shutil.copytree(path, folder / "inputs" / name) for name, path in inputs.items()}
    document = Job(
        step.name, config.model_dump(mode="json"), {name: str(path) for name, path in given.items()},
        str(output), str(scratch),
    )  # fmt: skip
    job = folder / "job.json"
    job.write_text(json.dumps(vars(document)), encoding="utf-8")
    try:
        ended = _carried_out(asked, job, progress)
        if ended is not None:
            raise what_went_wrong(folder, step, ended)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _carried_out(asked: TrainJob, job: Path, progress: Progress) -> str | None:
    """None where the job completed, else what its last condition says."""
    jobs, namespace = _client(), asked.namespace or _own_namespace()
    where = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}
    try:
        made = jobs.create_namespaced_custom_object(body=asked.manifest(job), **where)
        name = made["metadata"]["name"]
        try:
            while True:
                status = jobs.get_namespaced_custom_object(name=name, **where).get("status") or {}
                progress(f"Trainer job {name}", *_nodes(status, asked.resources.nodes))
                for condition in status.get("conditions") or ():
                    if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
                        return (
                            None
                            if condition["type"] == "Complete"
                            else str(condition.get("message", "failed"))
                        )
                time.sleep(float(os.environ.get("LWPLUGIN_POLL_S", _POLL_S)))
        finally:
            jobs.delete_namespaced_custom_object(name=name, **where)
    except LwpluginError:
        raise
    except Exception as error:  # the client's errors and urllib3's share no base
        raise StoreError(
            "Kubernetes did not take the Trainer job",
            got=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            do="check that Kubeflow Trainer 2 is installed and that the pod's service account may create trainjobs",
        ) from error


def _nodes(status: Mapping[str, Any], nodes: int) -> tuple[int, int]:
    done = sum(
        int(each.get("succeeded", 0)) for each in status.get("jobsStatus") or () if each.get("name") == "node"
    )
    return min(done, nodes), nodes


def _client() -> Any:
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise MissingExtraError("kubernetes", extra="kubeflow", why="A step on several nodes") from error
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            # The client reads the variable once, when it is imported.
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"))
        except config.ConfigException as error:
            raise StoreError(
                "This process can reach no Kubernetes",
                got=error,
                do="run the step in a pod, or set KUBECONFIG",
            ) from error
    return client.CustomObjectsApi()


def _own_namespace() -> str:
    return _NAMESPACE.read_text(encoding="utf-8").strip() if _NAMESPACE.is_file() else "default"
