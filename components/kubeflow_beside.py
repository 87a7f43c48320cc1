# mypy: disable-error-code="type-arg"
"""What pipelines do beside a recipe's steps, as Kubeflow Pipelines components: train before them, record what failed,
hold all that is registered to a policy.

Written as `components/kubeflow.py` says: no helper is shared, no annotation is a string.
"""

from kfp import dsl
from lwplugin.components.kubeflow import component


@component
def record_failure(
    status: dsl.PipelineTaskFinalStatus, model: str, recipe_digest: str = "", tracking_uri: str = ""
) -> None:
    """For `dsl.ExitHandler`: what failed becomes a failed run in the registry; a success records nothing.

    Args:
        status: Filled in by Kubeflow.
        model: What was to be compressed.
        recipe_digest: Which recipe did it.
        tracking_uri: MLflow; default: the pod's MLFLOW_TRACKING_URI.
    """
    if status.state in ("SUCCEEDED", "COMPLETE"):
        return
    from lwplugin.registry import record_failure

    record_failure(
        model=model,
        error=status.error_message or f"the pipeline ended as {status.state}",
        engine="kubeflow",
        engine_run=status.pipeline_job_resource_name,
        recipe_digest=recipe_digest,
        tracking_uri=tracking_uri or None,
    )


@component
def train(function: str, arguments: dict = {}) -> str:  # noqa: B006
    """Call your own training function before a recipe.

    Args:
        function: `module:function` in the image; it trains, registers and returns `models:/name/3`.
        arguments: Its keyword arguments.

    Returns:
        Output: `models:/name/3`.
    """
    from lwplugin.components.train import train

    return train(function, arguments)


@component
def check_fleet(
    policy: str, findings: dsl.Output[dsl.Markdown], tracking_uri: str = "", remeasure: bool = False
) -> None:
    """Hold every registered version to a policy; fails where one breaks it.

    Args:
        policy: The text of a policy file.
        tracking_uri: MLflow; default: the pod's MLFLOW_TRACKING_URI.
        remeasure: Run light versions that carry an alias again, here, and judge those times.

    Returns:
        findings: What was found, for the Kubeflow screen.
    """
    import sys
    import tempfile
    from pathlib import Path

    from lwplugin.policy import load_policy
    from lwplugin.policy.fleet import hold
    from lwplugin.policy.markdown import markdown
    from lwplugin.registry import inventory

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.yaml"
        file.write_text(policy, encoding="utf-8")
        rules = load_policy(file)
    known = inventory(tracking_uri=tracking_uri or None)
    found = hold(rules, known, remeasure=remeasure, tracking_uri=tracking_uri or None)
    Path(findings.path).write_text(markdown(found), encoding="utf-8")
    if found.exit_code:
        sys.exit(found.reason)
