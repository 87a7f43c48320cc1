"""`lwplugin serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwplugin.cli.output import json_option, only_json, write_json
from lwplugin.errors import LwpluginError, MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from lwplugin.serve.service import Service

_HELP = """Receive registry events, reconcile, and start the recipes that RULES name.

The webhook's secret comes from LWPLUGIN_WEBHOOK_SECRET, the database from LWPLUGIN_DATABASE_URL (default: sqlite in the
store), each also from the file that …_FILE names.
"""


@click.command("serve", help=_HELP)
@click.argument("rules", type=click.Path(path_type=Path, dir_okay=False), default="serve.yaml")
@click.option("--host", default="0.0.0.0", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Recipes run at once.")
@click.option(
    "--reconcile-every", type=click.FloatRange(0.1), default=60, show_default=True, metavar="SECONDS"
)
@click.option("--lease", type=click.FloatRange(1), default=60, show_default=True, metavar="SECONDS",
              help="A dead replica's work is taken over after this.")  # fmt: skip
@click.option("--replay-window", type=click.FloatRange(1), default=300, show_default=True, metavar="SECONDS",
              help="Older deliveries are refused.")  # fmt: skip
@click.option("--max-open", type=click.IntRange(1), default=10_000, show_default=True,
              help="Deliveries that may wait; beyond, senders are told to come again.")  # fmt: skip
@click.option("--keep-logs", type=click.FloatRange(0), default=30, show_default=True, metavar="DAYS",
              help="Files of jobs older than this are removed.")  # fmt: skip
@click.option("--most-logs", type=click.IntRange(0), default=2000, show_default=True, metavar="NUMBER",
              help="Of how many attempts at jobs the files are kept.")  # fmt: skip
@click.option("--reconcile-once", is_flag=True, help="Queue what was missed, run nothing, and end.")
@click.option("--retry", type=int, metavar="JOB", help="Queue a job that has ended once more, and end.")
@click.option("--resend", is_flag=True, help="Queue the notices that were given up once more, and end.")
@click.option("--test-channel", metavar="NAME", help="Send a notice over a channel now, and end.")
@click.option("--new-token", metavar="NAME", help="Show a new token for the fleet page once, and end.")
@click.option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI.")
@json_option
def serve_command(
    rules: Path,
    host: str,
    port: int,
    workers: int,
    reconcile_every: float,
    lease: float,
    replay_window: float,
    max_open: int,
    keep_logs: float,
    most_logs: int,
    reconcile_once: bool,
    retry: int | None,
    resend: bool,
    test_channel: str | None,
    new_token: str | None,
    tracking_uri: str | None,
    as_json: bool,
) -> int:
    with only_json(as_json) as out:
        try:
            import prometheus_client  # noqa: F401
            import sqlalchemy  # noqa: F401
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(str(error.name), extra="serve", why="The service") from None

        from lwplugin.log import log_to_stderr
        from lwplugin.secret import DATABASE_URL, secret
        from lwplugin.serve.database import open_database
        from lwplugin.serve.rules import RuleBook
        from lwplugin.settings import settings

        def tell(document: dict[str, Any], text: str) -> None:
            if as_json:
                write_json(document, out)
            else:
                click.echo(text)

        folder = settings().store.absolute() / "serve"
        engine = open_database(secret(DATABASE_URL) or f"sqlite:///{folder / 'serve.db'}")
        if retry is not None:
            _retry(engine, retry)
            tell({"queued": retry}, f"job {retry} queued")
        elif resend:
            from lwplugin.serve import outbox

            count = outbox.again(engine)
            tell({"queued": count}, f"{count} notices queued")
        elif test_channel is not None:
            from lwplugin.notify import send_test

            send_test(RuleBook(rules).channel(test_channel))
            tell({"sent": test_channel}, f"a notice was sent over {test_channel}")
        elif new_token is not None:
            token = _new_token(rules, new_token)
            tell({"name": new_token, "token": token}, token)
        elif reconcile_once:
            from lwplugin.serve.dispatch import reconcile

            log_to_stderr()
            done = reconcile(engine, RuleBook(rules), tracking_uri=tracking_uri)
            looked_at, queued = len(done.holdings.versions), [vars(intent) for intent in done.queued]
            tell(
                {"versions": looked_at, "queued": queued},
                f"{looked_at} versions looked at, {len(queued)} jobs queued",
            )
        else:
            from lwplugin.serve.service import Service

            log_to_stderr()
            book, known = RuleBook(rules), _webhook_secrets()
            for channel in book.rules.notify:
                channel.check_secrets()
            service = Service(
                engine,
                book,
                logs=folder / "logs",
                tracking_uri=tracking_uri,
                workers=workers,
                reconcile_s=reconcile_every,
                lease_s=lease,
                most_open=max_open,
                keep_logs_s=keep_logs * 86_400,
                most_logs=most_logs,
            )
            _serve(service, known, host, port, replay_window)
    return 0


def _retry(engine: Engine, job: int) -> None:
    from lwplugin.serve.queue import again

    if not again(engine, job):
        raise LwpluginError(
            f"Job {job} cannot be run again",
            got="no job that has ended",
            do="take a number from the service's page /jobs",
        )


def _new_token(rules: Path, name: str) -> str:
    from lwplugin.serve.pages.access import add_token
    from lwplugin.serve.rules import RuleBook

    file = RuleBook(rules).tokens_file
    if file is None:
        raise LwpluginError(
            f"{rules} names no tokens file", do="add a line such as `tokens_file: tokens.txt` to it"
        )
    return add_token(file, name)


def _webhook_secrets() -> tuple[str, ...]:
    from lwplugin.secret import WEBHOOK_SECRET, secrets

    known = secrets(WEBHOOK_SECRET)
    if not known:
        raise LwpluginError(
            "The service has no webhook secret, so it could not tell the registry's events from forged ones",
            do=f"set {WEBHOOK_SECRET} or {WEBHOOK_SECRET}_FILE to the secret the webhook was created with",
        )
    return known


def _serve(service: Service, secrets: tuple[str, ...], host: str, port: int, replay_window: float) -> None:
    import uvicorn

    from lwplugin.serve.app import create_app

    app = create_app(service, secrets=secrets, window_s=replay_window)
    # uvicorn raises the signal that ended it once more when all is tidied up; then it is no news.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    except SystemExit:  # uvicorn's code of a failed start is our "inconclusive"
        raise LwpluginError(
            f"The service could not start on {host}:{port}",
            got="what the line before says",
            do="if the address is in use, give another with --port",
        ) from None
