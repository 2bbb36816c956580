"""The command line: thin commands around the public verbs, one file for a group of them.

Results go to stdout (`--json` for machines), progress to stderr. Exit codes: 0 done, 1 a check failed, 2 wrong use or
bad input. Everything heavy is imported inside the commands, so that `gossamer --help` answers at once.
"""

import contextlib
import logging
import os
import sys
from typing import Annotated

import typer

from gossamer.cli.arguments import INTERRUPTED
from gossamer.cli.compress import compress, recipes
from gossamer.cli.convert import export, rotate
from gossamer.cli.describe import inspect, report
from gossamer.cli.generate import generate
from gossamer.cli.measure import bench, demo, evaluate
from gossamer.cli.merge import merge
from gossamer.cli.output import notes_of
from gossamer.cli.recover import recover
from gossamer.cli.search import search
from gossamer.cli.start import only_our_words
from gossamer.cli.teach import teach
from gossamer.errors import GossamerError
from gossamer.version import __version__

app = typer.Typer(
    name="gossamer",
    help="Make language models sparse: smaller on disk, smaller in memory, really faster, with the cost shown.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    # --debug itself is read by main(), which outlives the command
    if version:
        typer.echo(f"gossamer {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


for command in (
    inspect, compress, recover, merge, evaluate, bench, generate, search, teach, report, recipes, export, rotate, demo,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Entry point: run a command; turn our errors into one message and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    try:
        with contextlib.nullcontext() if debug else only_our_words():
            code = app(standalone_mode=False)
        if code == INTERRUPTED:  # so typer says it
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (GossamerError, typer.TyperException) as error:
        _fail(_message(error), debug, error)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("gossamer: interrupted; nothing was written", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {error} (a defect; run with --debug and report it)"
            + notes_of(error),
            debug,
            error,
        )


def _message(error: Exception) -> str:
    return error.format_message() if isinstance(error, typer.TyperException) else f"{error}{notes_of(error)}"


def _fail(message: str, debug: bool, error: BaseException) -> None:
    if debug:
        raise error
    typer.echo(f"gossamer: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
