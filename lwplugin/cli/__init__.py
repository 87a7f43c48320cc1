"""`lwplugin …`: the root command. Each subcommand's module is imported when that command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from lwplugin import __version__
from lwplugin.errors import LwpluginError, did_you_mean
from lwplugin.secret import redact

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 2, 4, 130

# name → (module of lwplugin.cli, what it does)
COMMANDS = {
    "init": ("recipe", "Write an example recipe, or the recipe's JSON Schema."),
    "plan": ("run", "Show what would run and what the store already has."),
    "run": ("run", "Carry a recipe out: compress, export, measure, gate, register."),
    "compile": ("compile", "Write RECIPE as a Kubeflow pipeline."),
    "measure": ("measure", "Measure an exported model, beside its parent where one is given."),
    "devices": ("agent", "List the remote devices of the inventory and how they are."),
    "agent": ("agent", "Measure on this board or node for others."),
    "gate": ("gate", "Judge a measured comparison by a policy again."),
    "register": ("registry", "Register what a run made and its gate passed."),
    "promote": ("registry", "Move an alias to a version, keeping the one before for rollback."),
    "rollback": ("registry", "Move an alias back to the version before."),
    "decisions": ("registry", "Show or export who moved which alias, and why."),
    "sign": ("signing", "Sign a registered version."),
    "verify": ("signing", "Verify a registered version's signature."),
    "check": ("check", "Hold registered versions to a policy of budgets and margins."),
    "serve": ("serve", "Receive registry events and start the recipes that rules name."),
    "export-serving": ("deploy", "Write a Triton model repository or a KServe manifest."),
    "report": ("report", "Say where the reports of a recipe lie, or open one."),
    "show": ("show", "Tell what a bundle, an exported model or a verdict holds."),
    "explain": ("explain", "Explain the blocks of a recipe: data sources, tasks, targets, gate."),
    "methods": ("methods", "List families, methods and their options."),
    "toolchain": ("toolchain", "Make and list the environments that converters run in."),
    "settings": ("methods", "List the LWPLUGIN_* variables and what they are now."),
    "docs": ("docs", "List or show the documents that come with lwplugin."),
}


class _Lazy(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"lwplugin.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"No command '{args[0]}': {did_you_mean(args[0], COMMANDS)}.", ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 pass, 1 gate or budget failed, 2 error, 3 inconclusive, 4 usage.",
)
@click.version_option(__version__, "-V", "--version", message="%(version)s")
def app() -> None:
    """Make registered models small and fast, prove that they are still good enough, register them back."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; always ends the process with an exit code."""
    # Threads of torch that wait by spinning take the CPU from whatever shares the machine, this program's own
    # measuring processes included: seven times the CPU time was seen on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(invoke(arguments))


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Like :func:`main`, but answers with the exit code."""
    try:
        code = app.main(arguments, prog_name="lwplugin", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what is finished stays in the store, run again to go on", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except Exception as error:
        if os.environ.get("LWPLUGIN_DEBUG", "") in ("1", "true", "yes", "on"):
            raise
        if isinstance(error, LwpluginError):
            click.echo(f"error: {error}", err=True)
        elif (
            isinstance(error, OSError) and error.filename is not None
        ):  # a full disk, a folder of somebody else's
            click.echo(f"error: {error.filename}: {error.strerror}.", err=True)
        else:
            said = redact(f"{type(error).__name__}: {error}")
            click.echo(f"error: unexpected {said} (LWPLUGIN_DEBUG=1 shows where)", err=True)
        return EXIT_ERROR
    return code if isinstance(code, int) else 0
