"""Starting a compiled plan on a cluster, once or by a schedule."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from kfp import Client
from lwplugin.pipelines.kubeflow.compile import Deployment, compile_plan, pipeline_name
from lwplugin.pipelines.plan import Plan

from lwplugin.errors import LwpluginError


@dataclass(frozen=True)
class Submitted:
    """A run on a cluster."""

    run_id: str
    url: str
    state: str | None = None


def submit(
    plan: Plan,
    deployment: Deployment,
    host: str,
    *,
    experiment: str | None = None,
    namespace: str | None = None,
    cron: str | None = None,
    wait: bool = False,
) -> Submitted:
    """Compile and start a run, or with ``cron`` (six fields, seconds first) a recurring one.

    Credentials are KFP's own (a service account's token, KF_PIPELINES_* variables). Raises LwpluginError
    where the server refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compile_plan(plan, deployment, file)
        name = f"{pipeline_name(plan)} {plan.recipe_digest[:12]}"
        try:
            client = Client(host=host, namespace=namespace or "kubeflow")
            if cron is not None:
                home = client.create_experiment(experiment or "lwplugin", namespace=namespace)
                job = client.create_recurring_run(
                    home.experiment_id, name, cron_expression=cron, pipeline_package_path=str(file)
                )
                return Submitted(
                    job.recurring_run_id, f"{host}/#/recurringrun/details/{job.recurring_run_id}"
                )
            run = client.create_run_from_pipeline_package(
                str(file), run_name=name, experiment_name=experiment or "lwplugin", namespace=namespace
            )
            state = run.wait_for_run_completion().state if wait else None
        except Exception as error:  # urllib3's, the server's and the client's own share no base
            raise LwpluginError(
                f"Kubeflow Pipelines at {host} did not take the run",
                got=f"{type(error).__name__}: {error}".splitlines()[0],
                do="check --host, the namespace and your credentials",
            ) from error
    return Submitted(run.run_id, f"{host}/#/runs/details/{run.run_id}", state)
