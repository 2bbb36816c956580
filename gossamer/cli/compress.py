"""`gossamer compress` and the recipes that it works by."""

from typing import Annotated

import typer

from gossamer.cli.arguments import MAX_SEED, Json, Model, Out, Overwrite, Resume
from gossamer.cli.output import print_json, print_result, telling_what_is_kept
from gossamer.cli.start import start
from gossamer.errors import UsageError


def compress(
    model: Model,
    recipe: Annotated[
        str, typer.Option(help="Name of a shipped recipe (see `gossamer recipes`), or a file.")
    ],
    out: Out,
    text: Annotated[str | None, typer.Option(help="Calibration text: file, folder or data set.")] = None,
    samples: Annotated[int | None, typer.Option(help="Windows of text to calibrate on.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a window.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Which windows are drawn.")] = None,
    layers: Annotated[str | None, typer.Option(metavar="GLOB", help="Touch only these layers.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and write nothing.")
    ] = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="What the run may take: a recipe that prunes trains each block as long as it lasts."
        ),
    ] = None,
    recover_minutes: Annotated[
        float | None, typer.Option(help="Afterwards recover the result on the text for so long.")
    ] = None,
    recover_steps: Annotated[int | None, typer.Option(help="The same for so many steps.")] = None,
    device: Annotated[str, typer.Option(help="Where the blocks are compressed, such as cuda.")] = "cpu",
    json_: Json = False,
) -> None:
    """Prune and quantize a model by a recipe, and write the smaller folder."""
    if layers == "":
        raise UsageError(
            "--layers: expected a pattern such as '*.mlp.*', got nothing. Leave it out to touch all."
        )
    recovers = _recovers(recover_minutes, recover_steps, dry_run)
    start(model)
    from gossamer.cli.show.compression import print_compressed, print_preview
    from gossamer.cli.show.progress import progress_bars
    from gossamer.cli.show.training import print_recovered
    from gossamer.compression.compress import compress as run
    from gossamer.compression.compress import preview, usable_device
    from gossamer.training.recover import Recovered

    if dry_run:
        usable_device(device)
        previewed = preview(model, recipe, samples=samples, length=length, layers=layers, minutes=minutes)
        print_result(previewed, json_, print_preview)
        return
    with telling_what_is_kept(), progress_bars() as progress:
        result = run(
            model, recipe, out=out, text=text, samples=samples, length=length, seed=seed, layers=layers,
            overwrite=overwrite, resume=resume, minutes=minutes, device=device,
            recover_minutes=recover_minutes, recover_steps=recover_steps, progress=progress,
        )  # fmt: skip
    if json_ and result.manifest:  # empty in others than the first of several processes
        print_json({"folder": str(result.folder), **result.manifest})
    elif result.manifest:
        print_compressed(result)
        if recovers:
            print_recovered(Recovered(result.folder, result.manifest["recovery"][-1]))


def _recovers(minutes: float | None, steps: int | None, dry_run: bool) -> bool:
    """Return whether the result is to be recovered."""
    if dry_run and (minutes is not None or steps is not None):
        raise UsageError(
            "--dry-run: tells what compressing does. Leave --recover-minutes and --recover-steps out; of a folder "
            "that is there, `gossamer recover --dry-run` tells the rest."
        )
    return minutes is not None or steps is not None


def recipes(json_: Json = False) -> None:
    """List the shipped recipes and what each does."""
    from gossamer.cli.show.compression import print_recipes
    from gossamer.recipe.reader import shipped_recipes

    shipped = shipped_recipes()
    if json_:
        print_json({name: recipe.to_dict() for name, recipe in shipped.items()})
    else:
        print_recipes(shipped)
