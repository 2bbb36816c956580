"""`gossamer teach`."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.arguments import INTERRUPTED, MAX_SEED, Engine, Json, Model
from gossamer.cli.output import notes_of, print_result
from gossamer.cli.start import start


def teach(
    model: Model,
    text: Annotated[
        list[str], typer.Option(help="Text to teach on: file, folder or data set; again for more.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the lessons; goes on if they are not finished.")
    ],
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="MODEL", help="One more teacher: the mean of all is taught."),
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a window. Default: 512.")] = None,
    windows: Annotated[int | None, typer.Option(help="So many windows. Default: all of the text.")] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Keep the k likeliest tokens, and the mass of the rest. Default: 50."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Keep so many random tokens instead: right in the mean, and smaller.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Order of the windows, and which samples are drawn.")
    ] = 0,
    activations: Annotated[
        str, typer.Option(help="float: exact. int8: round the inputs of packed linears, faster.")
    ] = "float",
    engine: Engine = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be written, and how large; write nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Write what a model would say behind every token of a text, once, for many students to learn from."""
    start(model)
    from gossamer.cli.show.progress import progress_bars
    from gossamer.cli.show.teaching import print_plan, print_taught
    from gossamer.training.lessons.teach import TEACHING, plan_lessons
    from gossamer.training.lessons.teach import teach as run

    try:
        with progress_bars({TEACHING: "tokens"}) as progress:
            if dry_run:
                plan = plan_lessons(
                    model, text, others=others or (), length=length, windows=windows, k=k, samples=samples,
                    seed=seed, engine=engine, activations=activations, progress=progress,
                )  # fmt: skip
            else:
                taught = run(
                    model, text, out, others=others or (), length=length, windows=windows, k=k, samples=samples,
                    seed=seed, engine=engine, activations=activations, progress=progress,
                )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        typer.echo(f"gossamer: interrupted{notes_of(interrupt) or '; no lesson was written'}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if dry_run:
        print_result(plan, json_, print_plan)
    else:
        print_result(taught, json_, print_taught)
