"""distill: a student's bundle and its teacher's → the trained student."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lwplugin.components.family import FamilyConfig, examples, run_family
from lwplugin.components.step import Step
from pydantic import Field

from lwplugin.progress import Progress


class Config(FamilyConfig):
    """A method with all of its options, the examples, and where further teachers lie."""

    tracking_uri: str | None = Field(
        None, description="MLflow, for teachers named models:/…; default: MLFLOW_TRACKING_URI"
    )


def run(
    config: Config, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.distill import distill
    from lwplugin.model import load

    taught = partial(distill, teacher=load(inputs["teacher"] / "bundle"), tracking_uri=config.tracking_uri)
    run_family(taught, config, inputs, output, scratch=scratch, progress=progress)


def _context(config: Config) -> dict[str, Any]:
    """The examples, the code of a student that a function builds, and what further teachers are."""
    from lwplugin.data import DataSpec, fingerprint
    from lwplugin.data.user_code import source_digest

    found = examples(config)
    student = config.options.get("student")
    if isinstance(student, dict) and "module" in student:
        found["student"] = source_digest(student["module"], what="student")
    named = [name for name in config.options.get("teachers") or () if name != "parent"]
    if named:
        from lwplugin.distill.references import contents

        found["teachers"] = [contents(name, tracking_uri=config.tracking_uri) for name in named]
    if config.options.get("teacher_data"):
        found["teacher_data"] = fingerprint(DataSpec.of(config.options["teacher_data"]))
    return found


STEP = Step(
    name="distill",
    config=Config,
    inputs=("bundle", "teacher"),
    run=run,
    summary="Train a student towards the answers of its teacher.",
    writes={"bundle/": "the trained light model"},
    packages=("torch",),
    outside_key=frozenset({"tracking_uri"}),
    context=_context,
    trains=True,
)
