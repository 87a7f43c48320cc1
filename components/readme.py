"""Every step's README.md, written from the step itself: `python -m lwplugin.components.readme`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lwplugin.components
from lwplugin.components import installed_steps, step_named
from lwplugin.components.kubeflow_task import RESULT

INPUTS = {
    "bundle": "the result of pull or of a compression step",
    "teacher": "pull's result: the registered version as it is",
    "light": "the last compression step's result",
    "parent": "pull's result",
    "export": "the light model's export",
    "candidate": "the light model's export",
    "baseline": "the parent's export",
    "parent_export": "the parent's export",
    "comparison": "measure's result",
    "verdict": "gate's result",
    "report": "report's result",
}


def readme(name: str) -> str:
    """Markdown: what the step does, its inputs, its output, its config."""
    step = step_named(name)
    fields = step.config.model_fields
    lines = [f"# {name}", "", step.summary, "", "| input | what it is |", "|---|---|"]
    lines += [f"| `{each}` | {INPUTS[each]} |" for each in step.inputs] or ["| none | |"]
    lines += ["", "| in the output directory | what it is |", "|---|---|"]
    lines += [f"| `{file}` | {what} |" for file, what in step.writes.items()]
    lines += ["", "| config | default | what it says |", "|---|---|---|"]
    lines += [f"| `{key}` | {_default(each)} | {each.description or ''} |" for key, each in fields.items()]
    stored = (
        "Found in the store when nothing it depends on has changed." if step.cached else "Runs every time."
    )
    lines += ["", stored, "", "```python", "from lwplugin.artifact import Store"]
    lines += [
        "from lwplugin.components import step_named",
        "from lwplugin.components.step import Artifact, execute",
        "",
        f'step = step_named("{name}")',
        "config = step.config.model_validate_json(text)",
    ]
    inputs = ", ".join(f'"{each}": Artifact.of(…)' for each in step.inputs)
    lines += [f'result = execute(step, config, {{{inputs}}}, Store(".lwplugin"))', "```", ""]
    lines += [
        f"On Kubeflow: `from lwplugin.components.kubeflow import {name}`, a component with the same inputs and "
        f"config; its result is the output `{RESULT[name]}`.",
        "",
    ]
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    text = json.dumps(
        value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value
    )
    return f"`{text}`"


def main() -> None:
    """Write them all."""
    for name in installed_steps():
        folder = Path(lwplugin.components.__path__[0]) / name
        (folder / "README.md").write_text(readme(name), encoding="utf-8")


if __name__ == "__main__":
    main()
