"""Commands that say what there is: `gossamer inspect` and `gossamer report`."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.arguments import Json, Model, Out, Overwrite
from gossamer.cli.output import print_path, print_result
from gossamer.cli.start import start


def inspect(model: Model, json_: Json = False) -> None:
    """Show what a model is made of: blocks, linears, shapes, bytes, present sparsity and formats."""
    start(model)
    from gossamer.checkpoint.summary import inspect as run
    from gossamer.cli.show.model import print_summary
    from gossamer.cli.show.progress import progress_bars
    from gossamer.progress import late

    with progress_bars() as progress:
        summary = run(model, late(progress))
    print_result(summary, json_, print_summary)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Compressed folders.")],
    out: Out = Path("report.html"),
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Write one HTML page about one or more compressed folders, readable without a network."""
    from gossamer.checkpoint.manifest import read_manifest
    from gossamer.report.page import write_report

    manifests = [read_manifest(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    write_report(manifests, out, names=names, overwrite=overwrite)
    print_path("report", out, json_)
