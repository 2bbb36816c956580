"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, .gguf file or hub id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="What to write. Refused if it exists.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a run to the same --out was stopped, if one was.")
]
Activations = Annotated[
    str | None,
    typer.Option(
        help="float: exact. int8: round the inputs of packed linears, faster. Default: int8 on the native engine."
    ),
]
Engine = Annotated[
    str, typer.Option(help="native, torch, or auto: native where the model's family has a plan.")
]

MAX_SEED = 2**63 - 1
"""Largest seed that torch takes."""

INTERRUPTED = 130
"""Exit code of a command that was interrupted, as shells have it."""
