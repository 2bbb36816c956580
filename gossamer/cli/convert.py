"""Commands that write a model in another form: `gossamer export` and `gossamer rotate`."""

from typing import Annotated

import typer

from gossamer.cli.arguments import MAX_SEED, Json, Model, Out, Overwrite
from gossamer.cli.output import print_path, print_result
from gossamer.cli.start import start


def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Compressed folder.")],
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            help="dense: plain safetensors with zeros. peft: the same, low-rank parts as a LoRA adapter inside."
        ),
    ] = "dense",
    dtype: Annotated[str, typer.Option(help="float32 (exact), bfloat16 or float16.")] = "float32",
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Write a compressed model in a form that every tool loads."""
    start(folder)
    from gossamer.checkpoint.write.export import export as run

    path = run(folder, out, format=format, dtype=dtype, overwrite=overwrite)
    print_path("folder", path, json_)


def rotate(
    model: Model,
    out: Out,
    what: Annotated[
        str,
        typer.Option(help="values: in each attention head. residual: between the blocks. all: both."),
    ] = "values",
    untie: Annotated[
        bool,
        typer.Option(
            "--untie", help="Store a tied head apart, larger by that much; residual needs it there."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Which signs the Hadamard matrices get.")
    ] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: the parent's; of a GGUF file float16."),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Write a dense model that computes the same with rotated weights, to quantize it."""
    start(model)
    from gossamer.cli.show.model import print_rotated
    from gossamer.cli.show.progress import progress_bars
    from gossamer.rotation.rotate import rotate as run

    with progress_bars() as progress:
        result = run(
            model, out, what=what, untie=untie, seed=seed, dtype=dtype, overwrite=overwrite, progress=progress
        )
    print_result(result, json_, print_rotated)
