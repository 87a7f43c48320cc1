"""`lwplugin sign` and `verify`."""

from __future__ import annotations

import click

from lwplugin.cli.output import json_option, only_json, write_json

_tracking = click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")


@click.command(
    "sign", help="Sign VERSION (models:/name/3 or @alias) as it lies there, with LWPLUGIN_SIGNING_KEY."
)
@click.argument("version")
@_tracking
@json_option
def sign_command(version: str, tracking_uri: str | None, as_json: bool) -> int:
    with only_json(as_json) as out:
        from lwplugin.registry import sign_version

        key = sign_version(version, tracking_uri=tracking_uri)
        if as_json:
            write_json({"version": version, "key": key}, out)
        else:
            click.echo(f"{version} is signed with key {key[:16]}…")
    return 0


@click.command("verify", help="Is VERSION signed by one of LWPLUGIN_TRUSTED_KEYS, file by file?")
@click.argument("version")
@_tracking
@json_option
def verify_command(version: str, tracking_uri: str | None, as_json: bool) -> int:
    with only_json(as_json) as out:
        from lwplugin.registry import verify_version

        key = verify_version(version, tracking_uri=tracking_uri)
        if as_json:
            write_json({"version": version, "key": key}, out)
        else:
            click.echo(f"{version} is signed with trusted key {key[:16]}…")
    return 0
