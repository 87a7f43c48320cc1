"""The agent's command line: arguments, token, logging, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import lwplugin
from lwplugin.agent.area import sweep
from lwplugin.agent.capabilities import offered
from lwplugin.agent.limits import Limits
from lwplugin.agent.server import Agent
from lwplugin.errors import LwpluginError, MeasureError

TOKEN = "LWPLUGIN_AGENT_TOKEN"
DEFAULT_PORT = 7411


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; exits 2 with a message where it cannot begin."""
    options = _parser().parse_args(arguments)
    if options.pack is not None:
        from lwplugin.agent.pack import pack

        pack(options.pack)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _let_workers_find_us()
    try:
        agent = Agent(
            _address(options.listen),
            _token(options.token_file),
            offered(options.runtime),
            Limits(**{entry.name: getattr(options, entry.name) for entry in fields(Limits)}),
            _tls(options.cert, options.key),
        )
    except LwpluginError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    signal.set_wakeup_fd(agent.waking.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    host, port = agent.address
    secured = "TLS" if options.cert else "no TLS: what is sent can be read on the way"
    logging.info("listening on %s:%d (%s), offering %s", host, port, secured, ", ".join(agent.runtimes))
    if left := sweep():
        logging.info("removed the files of %d jobs that an agent left when it was killed", left)
    agent.serve()
    signal.set_wakeup_fd(-1)
    agent.close()


class _Help(argparse.HelpFormatter):
    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "Usage: ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lwplugin agent",
        formatter_class=_Help,
        description="Measure model files for a controller that holds the token.",
        epilog=f"The token comes from {TOKEN} or --token-file, never from an argument.",
    )
    parser.add_argument(
        "--listen", default=f"127.0.0.1:{DEFAULT_PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file that holds the token")
    parser.add_argument(
        "--runtime", action="append", default=[], metavar="NAME", help="offer only this; may be given again"
    )
    parser.add_argument("--cert", type=Path, metavar="PEM", help="speak TLS with this certificate")
    parser.add_argument("--key", type=Path, metavar="PEM", help="its key; default: in the same file")
    parser.add_argument(
        "--pack", type=Path, metavar="FILE", help="write the agent as one file for a board, and end"
    )
    for entry in fields(Limits):
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=float,
            default=entry.default,
            metavar="N",
            help=f"{entry.metadata['help']} (%(default)s)",
        )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise MeasureError("An address to listen on is HOST:PORT", got=text)
    return host.strip("[]"), int(port)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.pop(TOKEN, "").strip()  # workers need not see it
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MeasureError("The token file cannot be read", got=f"{file} ({type(error).__name__})") from None


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise MeasureError("The certificate cannot be used", got=f"{cert} ({error})") from None
    return context


def _let_workers_find_us() -> None:
    """Workers are processes of their own and must find this package, packed in one file or not."""
    root = str(Path(lwplugin.__file__).parents[1])
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if not known else os.pathsep.join([root, known])
