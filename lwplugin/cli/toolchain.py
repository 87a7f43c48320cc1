"""`lwplugin toolchain`: the environments of converters that cannot live beside this package."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict

import click

from lwplugin.cli.output import human_bytes, json_option, only_json, progress_on, table, write_json


@click.group("toolchain", help="Make and list the environments that converters run in.")
def toolchain_command() -> None:
    pass


@toolchain_command.command("list", help="Which toolchains there are, and which are installed.")
@json_option
def list_command(as_json: bool) -> int:
    from lwplugin.toolchain import TOOLCHAINS, state

    states = [state(name) for name in TOOLCHAINS]
    with only_json(as_json) as out:
        if as_json:
            write_json([asdict(each) for each in states], out)
            return 0
        rows = [
            (each.name, each.state, human_bytes(each.size_bytes) if each.size_bytes else "", each.summary)
            for each in states
        ]
        click.echo(table([("toolchain", "state", "size", "what it is"), *rows]))
        for each in states:
            for other in each.others:
                click.echo(f"of an older lock, may be deleted: {other}")
    return 0


@toolchain_command.command("install", help="Make the pinned environment of NAME; done already is fine.")
@click.argument("name")
@click.option("--python", help="Interpreter to build on (default: the one lwplugin runs in).")
@click.option("--force", is_flag=True, help="Build it again.")
@click.option("--dry-run", is_flag=True, help="Say what would run.")
@json_option
def install_command(name: str, python: str | None, force: bool, dry_run: bool, as_json: bool) -> int:
    from lwplugin.toolchain import install, plan, state

    now = state(name)
    with only_json(as_json) as out:
        if dry_run:
            commands = plan(name, python=python) if force or now.state != "installed" else []
            if as_json:
                write_json({**asdict(now), "commands": commands}, out)
            else:
                click.echo(f"{name}: {now.state}, {now.packages} packages, {now.path}")
                for command in commands:
                    click.echo(f"  {shlex.join(command)}")
            return 0
        progress = progress_on(sys.stderr)
        try:
            install(name, python=python, force=force, progress=progress)
        finally:
            progress.close()
        made = state(name)
        if as_json:
            write_json(asdict(made), out)
        else:
            click.echo(f"{name}: {human_bytes(made.size_bytes or 0)} in {made.path}")
    return 0
