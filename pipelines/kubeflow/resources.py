"""From the recipe's `resources` to what KFP and its Kubernetes extension ask of a task."""

from __future__ import annotations

from typing import Any

from kfp import kubernetes
from lwplugin.components.train_job import TrainJob

from lwplugin.resources import Resources
from lwplugin.settings import variable

_LONGEST_DELAY_S = 3600


def give(task: Any, resources: Resources) -> None:
    """Ask for ``resources`` on ``task``; what they leave out stays the cluster's default."""
    if resources.image:
        task.set_container_image(resources.image)
    if resources.nodes > 1:
        # The task itself only waits: hardware is the job's, whose pods get everything else too.
        job = TrainJob(image=resources.image or "", resources=resources)
        task.set_env_variable(variable("train_job"), job.model_dump_json(exclude_defaults=True))
    else:
        _hardware(task, resources)
        if resources.processes is not None:
            task.set_env_variable(variable("processes"), str(resources.processes))
    for name, value in resources.env.items():
        task.set_env_variable(name, value)
    for name, reference in resources.secrets.items():
        secret, _, key = reference.partition("/")
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env={key: name})
    for volume in resources.volumes:
        kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.path, sub_path=volume.sub_path)
    for label, value in resources.node_selector.items():
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    for toleration in resources.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    if resources.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(resources.image_pull_secrets))
    if resources.timeout_s is not None:
        kubernetes.set_timeout(task, resources.timeout_s)
    if resources.retries:
        task.set_retry(
            num_retries=resources.retries,
            backoff_duration=f"{resources.retry_delay_s}s",
            backoff_factor=2.0,
            backoff_max_duration=f"{_LONGEST_DELAY_S}s",
        )


def _hardware(task: Any, resources: Resources) -> None:
    if resources.cpu is not None:
        task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    if resources.memory is not None:
        task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.accelerator is not None:
        task.set_accelerator_type(resources.accelerator).set_accelerator_limit(resources.count)
