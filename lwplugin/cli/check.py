"""`lwplugin check`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwplugin.cli.output import json_option, only_json, progress_on, table, write_file, write_json
from lwplugin.errors import RegistryError

if TYPE_CHECKING:
    from lwplugin.policy import Findings
    from lwplugin.registry import Listed

_SUBJECT = re.compile(r"^(?:models:/)?(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))?$")
_SHOWN = 40

policy_option = click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    default="policy.yaml",
    show_default=True,
    help="Budgets, margins and waivers.",
)


_HELP = """Hold registered versions to a policy.

SUBJECT is one version (models:/net/3, models:/net@champion), a model (models:/net), or left out for all.
"""


@click.command("check", help=_HELP)
@click.argument("subject", required=False)
@policy_option
@click.option("--as-alias", metavar="ALIAS", help="Judge as if each carried this alias: before a promotion.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option("--sarif", type=click.Path(path_type=Path), help="Write SARIF.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write a comment for a pull request.")
@click.option(
    "--compile",
    "pipeline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Check nothing; write the check of all versions as a Kubeflow pipeline, for a schedule.",
)
@click.option(
    "--remeasure",
    is_flag=True,
    help="Run light versions that carry an alias again, here, and judge those times.",
)
@click.option(
    "--most-drift",
    type=click.FloatRange(min=0),
    help="With --remeasure: by how much a median latency may have grown since it was registered; default: a fifth.",
)
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def check_command(
    subject: str | None,
    policy: Path,
    as_alias: str | None,
    junit: Path | None,
    sarif: Path | None,
    markdown: Path | None,
    pipeline: Path | None,
    remeasure: bool,
    most_drift: float | None,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    with only_json(as_json) as out:
        if pipeline is not None:
            _compile(policy, pipeline, tracking_uri, remeasure)
            if as_json:
                write_json({"file": str(pipeline)}, out)
            else:
                click.echo(f"{pipeline}: every version against {policy}")
            return 0
        progress = progress_on(sys.stderr)
        try:
            again: dict[str, Any] = {"remeasure": remeasure, "progress": progress}
            if most_drift is not None:
                again["most_drift"] = most_drift
            found = held_to(policy, subject, tracking_uri, as_alias=as_alias, **again)
        finally:
            progress.close()
        if junit is not None:
            from lwplugin.policy.junit import junit_xml

            write_file(junit, junit_xml(found))
        if sarif is not None:
            from lwplugin.policy import load_policy
            from lwplugin.policy.sarif import sarif as sarif_json

            write_file(sarif, sarif_json(found, load_policy(policy), policy))
        if markdown is not None:
            from lwplugin.policy.markdown import markdown as comment

            write_file(markdown, comment(found))
        if as_json:
            write_json(found.document(), out)
        else:
            _show(found)
    return found.exit_code


def held_to(
    policy: Path, subject: str | None, tracking_uri: str | None, *, as_alias: str | None = None, **again: Any
) -> Findings:
    """The findings of a policy file on what SUBJECT names, today; ``again``: see `lwplugin.policy.fleet.hold`."""
    from lwplugin.policy import load_policy
    from lwplugin.policy.fleet import hold

    rules = load_policy(policy)
    known, only = _versions(subject, tracking_uri)
    return hold(rules, known, only, as_alias=as_alias, tracking_uri=tracking_uri, **again)


def _compile(policy: Path, pipeline: Path, tracking_uri: str | None, remeasure: bool) -> None:
    from lwplugin.cli.compile import extra
    from lwplugin.policy import load_policy

    load_policy(policy)
    with extra("kubeflow", why="--compile"):
        from lwplugin.components.kubeflow import IMAGE
        from lwplugin.pipelines.kubeflow.compile import Deployment
        from lwplugin.pipelines.kubeflow.ready import compile_fleet_check
    text = policy.read_text(encoding="utf-8")
    pipeline.parent.mkdir(parents=True, exist_ok=True)
    compile_fleet_check(
        text, Deployment(IMAGE), pipeline, tracking_uri=tracking_uri or "", remeasure=remeasure
    )


def _versions(subject: str | None, tracking_uri: str | None) -> tuple[list[Listed], list[Listed]]:
    """(where substitutes may be found, what is judged)."""
    from lwplugin.registry import inventory, resolve

    if subject is None:
        everything = inventory(tracking_uri=tracking_uri)
        return everything, everything
    match = _SUBJECT.match(subject)
    if match is None:
        raise RegistryError(
            "Not a model or version",
            got=subject,
            do="write models:/<name>, models:/<name>/3 or models:/<name>@alias",
        )
    known = inventory(match["name"], tracking_uri=tracking_uri)
    if match["version"] is None and match["alias"] is None:
        return known, known
    uri = subject if subject.startswith("models:/") else f"models:/{subject}"
    number = int(resolve(uri, tracking_uri=tracking_uri).version)
    return known, [version for version in known if version.version == number]


def _show(found: Findings) -> None:
    click.echo(f"{found.status.upper()}. {found.reason}")
    shown = list(found.not_passed())
    if not shown:
        return
    rows = [("version", "target", "rule", "check", "status", "finding")]
    for finding in shown[:_SHOWN]:
        status = "waived" if finding.waived else "warning" if finding.severity == "warn" else finding.status
        owner = f" Owner: {finding.owner}." if finding.owner else ""
        rows.append(
            (
                finding.uri,
                finding.target or "–",
                finding.rule,
                finding.check,
                status,
                finding.sentence + owner,
            )
        )
    click.echo(table(rows))
    if len(shown) > _SHOWN:
        click.echo(f"… and {len(shown) - _SHOWN} more; --json has them all")
