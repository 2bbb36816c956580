"""`gossamer search`."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.arguments import INTERRUPTED, MAX_SEED, Json, Model
from gossamer.cli.output import print_result
from gossamer.cli.start import start


def search(
    model: Model,
    budget: Annotated[
        str, typer.Option(help="size=60MB (the folder), latency=5ms (a decoded token) or perplexity=+5%.")
    ],
    text: Annotated[str, typer.Option(help="Text: three quarters calibrate, the rest judges.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for recipes, figures and state; goes on if there.")
    ],
    minutes: Annotated[float, typer.Option(help="Begin nothing that would not be finished by then.")] = 30.0,
    samples: Annotated[int | None, typer.Option(help="Windows of text to calibrate on.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a window.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Which windows are drawn.")] = None,
    windows: Annotated[int, typer.Option(help="Held-out windows that perplexity is measured on.")] = 8,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the chosen model too.")] = False,
    recover_minutes: Annotated[
        float | None, typer.Option(help="At last recover the chosen model on the same text, for so long.")
    ] = None,
    recover_steps: Annotated[int | None, typer.Option(help="The same, for so many steps.")] = None,
    json_: Json = False,
) -> None:
    """Search for the best recipe within a budget: predict, verify, write recipes and a plot."""
    start(model)
    from gossamer.cli.show.compression import print_search
    from gossamer.cli.show.progress import progress_bars
    from gossamer.frontier.search import search as run

    try:
        with progress_bars() as progress:
            result = run(
                model, budget=budget, text=text, out=out, minutes=minutes, samples=samples, length=length,
                seed=seed, windows=windows, keep=keep, recover_minutes=recover_minutes, recover_steps=recover_steps,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"gossamer: interrupted; the same command goes on from {out}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    print_result(result, json_, print_search)
    if result.reached is False:
        raise typer.Exit(1)
