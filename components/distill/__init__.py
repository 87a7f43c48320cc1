"""distill: a student's bundle and its teacher's → the trained student."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lwplugin.components.family import FamilyConfig, examples, run_family
from lwplugin.components.step import Step

from lwplugin.progress import Progress


def run(
    config: FamilyConfig, inputs: Mapping[str, Path], output: Path, *, scratch: Path, progress: Progress
) -> None:
    from lwplugin.distill import distill
    from lwplugin.model import load

    taught = partial(distill, teacher=load(inputs["teacher"] / "bundle"))
    run_family(taught, config, inputs, output, scratch=scratch, progress=progress)


def _context(config: FamilyConfig) -> dict[str, Any]:
    """The examples, and the code of a student that is built here."""
    student = config.options.get("student")
    if not isinstance(student, dict) or "module" not in student:
        return examples(config)
    from lwplugin.data.user_code import source_digest

    return {**examples(config), "student": source_digest(student["module"], what="student")}


STEP = Step(
    name="distill",
    config=FamilyConfig,
    inputs=("bundle", "teacher"),
    run=run,
    summary="Train a student towards the answers of its teacher.",
    writes={"bundle/": "the trained light model"},
    packages=("torch",),
    context=_context,
)
