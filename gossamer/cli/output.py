"""What a command prints on stdout: a table or JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import typer

from gossamer.cli.arguments import INTERRUPTED


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


_R = TypeVar("_R", bound=_Result)


def print_result(result: _R, as_json: bool, show: Callable[[_R], None]) -> None:
    """Print the result by `show`, or as JSON."""
    if as_json:
        print_json(result.to_dict())
    else:
        show(result)


def print_json(value: dict[str, Any]) -> None:
    """Print JSON with what is no JSON as text."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_path(what: str, path: Path, as_json: bool) -> None:
    """Say what was written."""
    if as_json:
        print_json({what: str(path)})
    else:
        typer.echo(f"wrote {path}")


def notes_of(error: BaseException) -> str:
    """Return what was added to an error on its way, such as that a stopped run can go on, and how."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))


@contextmanager
def telling_what_is_kept() -> Iterator[None]:
    """Where work inside is interrupted and has kept something to go on from, say so, and end the command."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not (kept := notes_of(interrupt)):
            raise
        typer.echo(f"gossamer: interrupted{kept}", err=True)
        sys.exit(INTERRUPTED)
