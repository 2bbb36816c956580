"""`gossamer generate`."""

import json
from typing import Annotated

import typer

from gossamer.cli.arguments import MAX_SEED, Activations, Engine, Json, Model
from gossamer.cli.start import start
from gossamer.errors import UsageError


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="At most so many new tokens. Default: as the model says, else 128 or what it has room for."
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="0: always the most likely token. Default: as the model says, else 0."),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Draw among the k most likely tokens; 0: all. Default: as the model says."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw among the likeliest tokens of this total. Default: as the model says."),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Draw among tokens at least this share as likely as the likeliest. Default: same."),
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: what was there already is less likely. Default: same.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Makes sampling repeatable.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Give the prompt as it is, without the chat template.")
    ] = False,
    activations: Activations = None,
    engine: Engine = "auto",
    json_: Json = False,
) -> None:
    """Continue a prompt (with the chat template when the model has one)."""
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # bytes of the shell that are no text
        raise UsageError("PROMPT: expected text in UTF-8, got other bytes.")
    start(model, passive_threads=False)
    from gossamer.runtime.generate import write
    from gossamer.runtime.settings import Asked

    asked = Asked(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed,
    )  # fmt: skip
    writing = write(model, prompt, engine=engine, activations=activations, raw=raw, asked=asked)
    for note in writing.notes:
        typer.echo(f"gossamer: {note}", err=True)
    if json_:
        told = {"engine": writing.engine, "activations": writing.activations, "notes": writing.notes}
        result = {"model": model, "prompt": prompt, "text": "".join(writing.pieces), **told}
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return
    typer.echo(f"engine: {writing.engine}, {writing.activations} activations", err=True)
    for piece in writing.pieces:
        typer.echo(piece, nl=False)
    typer.echo()
