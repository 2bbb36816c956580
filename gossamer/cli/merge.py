"""`gossamer merge`."""

from typing import Annotated

import typer

from gossamer.cli.arguments import Json, Out, Overwrite
from gossamer.cli.output import print_result
from gossamer.cli.start import start

Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Folder that `compress` wrote; or a dense, pruned one.")
]
Adapter = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="Folder of a LoRA adapter that PEFT wrote, with safetensors.")
]
Parent = Annotated[
    str | None,
    typer.Option(help="The dense model that FOLDER was made of: small changes then reach its codes."),
]


def merge(
    model: Folder,
    adapter: Adapter,
    out: Out,
    parent: Parent = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Add a LoRA adapter to a compressed model: the same formats, bytes and zeros."""
    start(model)
    from gossamer.cli.show.progress import progress_bars
    from gossamer.cli.show.training import print_merged
    from gossamer.training.merge import merge as run

    with progress_bars() as progress:
        result = run(model, adapter, out=out, parent=parent, overwrite=overwrite, progress=progress)
    print_result(result, json_, print_merged)
