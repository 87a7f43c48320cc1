"""pull: one registered model version → a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lwplugin.components.step import Step, StepConfig
from pydantic import Field

from lwplugin.progress import Progress
from lwplugin.registry import Resolved
from lwplugin.registry.signing import trust_digest


class Config(StepConfig):
    """A concrete version: an alias is resolved when the plan is made, so that a plan means one model."""

    version: Resolved = Field(description="what lwplugin.registry.resolve answered")
    tracking_uri: str | None = Field(None, description="MLflow; default: MLFLOW_TRACKING_URI")


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.registry import pull

    pull(config.version, output / "bundle", tracking_uri=config.tracking_uri, progress=progress)


def _trust(config: Config) -> dict[str, str]:
    """A version pulled when no signature was asked for is looked at again when one is."""
    digest = trust_digest()
    return {} if digest is None else {"trusted_keys": digest}


STEP = Step(
    name="pull",
    config=Config,
    inputs=(),
    run=run,
    summary="Download a registered model version and keep it as a bundle.",
    writes={"bundle/": "the light model, unchanged, with the origin it is rebuilt from"},
    packages=("torch",),
    outside_key=frozenset({"tracking_uri"}),
    context=_trust,
)
