"""`lwplugin agent` and `lwplugin devices`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lwplugin.cli.output import json_option, only_json, table, write_json


@click.command(
    "agent",
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
    help="Measure on this device for controllers that hold the token.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent_command(arguments: tuple[str, ...]) -> int:
    from lwplugin.agent.program import main

    try:
        main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


@click.command("devices", help="List the devices of the inventory (LWPLUGIN_DEVICES) and how they are.")
@click.argument("names", nargs=-1)
@click.option("--inventory", type=click.Path(path_type=Path, dir_okay=False), help="Another inventory.")
@json_option
def devices_command(names: tuple[str, ...], inventory: Path | None, as_json: bool) -> int:
    """Exit code 2 where a device that was asked for cannot be used."""
    with only_json(as_json) as out:
        from lwplugin.measure.fleet import states
        from lwplugin.measure.inventory import inventory as read

        found = states(read(inventory), names)
        if as_json:
            write_json({"devices": found}, out)
        elif not found:
            click.echo("no devices: write devices.yaml, or set LWPLUGIN_DEVICES")
        else:
            click.echo(table([("device", "address", "state", "machine", "runtimes"), *map(_row, found)]))
            for device in found:
                if "problem" in device:
                    click.echo(device["problem"], err=True)
    return 2 if any(device["state"] not in ("idle", "busy") for device in found) else 0


def _row(device: dict[str, Any]) -> tuple[str, ...]:
    machine = device.get("machine") or {}
    waiting = f", {device['waiting']} waiting" if device.get("waiting") else ""
    runtimes = ", ".join(f"{name} {version}" for name, version in (device.get("runtimes") or {}).items())
    what = f"{machine['arch']}, {machine['cores']} CPUs, {machine['isa']}" if machine else "-"
    return (device["name"], device["address"], device["state"] + waiting, what, runtimes or "-")
