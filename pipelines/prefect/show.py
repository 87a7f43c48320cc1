"""What a person sees of a run on Prefect's screen, and what automations can hear."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lwplugin.pipelines.result import RunResult
from lwplugin.pipelines.summary import summarise
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event


def show(result: RunResult) -> None:
    """Artifacts of every target (table of numbers, markdown of checks, link to the report) and its events."""
    for target in result.plan.targets:
        summary = summarise(result, target)
        slug = key(result.plan.parent.name, target)
        create_markdown_artifact(
            markdown(target, summary), key=f"verdict-{slug}", description=summary["reason"]
        )
        if summary["numbers"]:
            create_table_artifact(rows(summary["numbers"]), key=f"numbers-{slug}", description=target)
        if summary["report"]:
            link = Path(summary["report"], "report.html").as_uri()
            create_link_artifact(link, link_text="report", key=f"report-{slug}")
        tell(result, target, summary)


def key(*parts: str) -> str:
    """A key Prefect takes: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def tell(result: RunResult, target: str, summary: dict[str, Any]) -> None:
    """`lwplugin.verdict.<status>` and, where a version was registered, `lwplugin.version.registered`."""
    plan = result.plan
    model = {
        "prefect.resource.id": f"lwplugin.model.{plan.parent.name}",
        "prefect.resource.name": plan.parent.name,
    }
    payload = {
        "target": target,
        "parent": plan.parent.uri,
        "recipe_digest": plan.recipe_digest,
        "reason": summary["reason"],
    }
    emit_event(f"lwplugin.verdict.{summary['verdict']}", resource=model, payload=payload)
    registration = summary["registration"]
    if registration is not None:
        told = {
            "uri": registration["uri"],
            "alias": registration["alias"],
            "created": registration["created"],
        }
        emit_event("lwplugin.version.registered", resource=model, payload={**payload, **told})


def markdown(target: str, summary: dict[str, Any]) -> str:
    """The verdict with its checks."""
    lines = [f"## {target}: {summary['verdict'].upper()}", "", str(summary["reason"]), ""]
    if summary["checks"]:
        lines += ["| check | status | says |", "|---|---|---|"]
        lines += [
            f"| {check['name']} | {check['status']} | {check['message']} |" for check in summary["checks"]
        ]
    lines += [f"\n> {warning}" for warning in summary["warnings"]]
    registration = summary["registration"]
    if registration:
        lines += ["", f"Registered as `{registration['uri']}`, alias `{registration['alias']}`."]
    return "\n".join(lines)


def rows(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Parent and light side by side."""
    parent, light = numbers["parent"], numbers["light"]
    return [
        {"number": name, "parent": _short(parent[name]), "light": _short(light.get(name))} for name in parent
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "" if value is None else str(value)
