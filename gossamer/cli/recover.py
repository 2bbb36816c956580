"""`gossamer recover`."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.arguments import MAX_SEED, Json, Out, Overwrite, Resume
from gossamer.cli.output import print_result, telling_what_is_kept
from gossamer.cli.start import start

Small = Annotated[str, typer.Argument(metavar="SMALL", help="Folder that `compress` wrote; or a dense one.")]
Parent = Annotated[str, typer.Option(help="The dense model that it was made of.")]
Text = Annotated[
    list[str] | None,
    typer.Option(
        help="Text to learn from: file, folder or data set; self: written by the parent. May be given several times, "
        "and then with weights: TEXT:0.7."
    ),
]
LessonFolder = Annotated[
    str | None, typer.Option("--lessons", help="In place of --text: a folder that `teach` wrote.")
]
SelfTokens = Annotated[
    int | None,
    typer.Option(
        help="How much the parent writes. Default: what --steps read, or what it writes in a fifth of --minutes."
    ),
]
TextOut = Annotated[Path | None, typer.Option(help="Keep the text that the parent writes in this new file.")]
Minutes = Annotated[float | None, typer.Option(help="What the whole run may take.")]
Steps = Annotated[int | None, typer.Option(help="Steps to take, in place of --minutes.")]
Train = Annotated[
    str,
    typer.Option(help="all kept weights; lora: masked adapters, merged at the end; norms: norms and biases."),
]
Embeddings = Annotated[
    bool, typer.Option("--embeddings", help="Train the token embedding and the output head too.")
]
Mask = Annotated[
    str,
    typer.Option(
        help="fixed: zeros stay where they are; anneal, admm: they move on the way, and the memory of the optimizer is "
        "that of a dense model."
    ),
]
Rate = Annotated[float | None, typer.Option(help="Default: 2e-4; 1e-3 for lora and norms.")]
Batch = Annotated[int, typer.Option(help="Windows in a step.")]
Length = Annotated[
    int | None, typer.Option(help="Tokens in a window. Default: 512, or what the model can take.")
]
Rank = Annotated[int, typer.Option(help="Of the adapters of lora.")]
Temperature = Annotated[float, typer.Option(help="Of the divergence from the parent.")]
Labels = Annotated[float, typer.Option(help="Weight of the cross entropy of the text itself.")]
Hidden = Annotated[float, typer.Option(help="Weight of the parent's hidden states (SquareHead).")]
TeacherEngine = Annotated[
    str,
    typer.Option(
        help="torch; native: the parent's answers are quicker, with int8 activations and not exact, where it is stored "
        "in few bits."
    ),
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Less memory: run each block again in the backward pass.")
]
Precision = Annotated[
    str, typer.Option(help="Of the products: auto (bfloat16 where the CPU has it), float32, bfloat16.")
]
AllReduce = Annotated[
    str, typer.Option(help="How torchrun's processes add up gradients: exact, or rounded to bf16.")
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Which windows come when.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and write nothing.")]


def recover(
    model: Small,
    parent: Parent,
    out: Out,
    text: Text = None,
    lessons: LessonFolder = None,
    self_tokens: SelfTokens = None,
    text_out: TextOut = None,
    minutes: Minutes = None,
    steps: Steps = None,
    train: Train = "all",
    embeddings: Embeddings = False,
    mask: Mask = "fixed",
    learning_rate: Rate = None,
    batch: Batch = 4,
    length: Length = None,
    rank: Rank = 16,
    temperature: Temperature = 1.0,
    labels: Labels = 0.0,
    hidden: Hidden = 0.0,
    teacher_engine: TeacherEngine = "torch",
    checkpointing: Checkpointing = False,
    precision: Precision = "auto",
    all_reduce: AllReduce = "exact",
    seed: Seed = 0,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
    json_: Json = False,
) -> None:
    """Train a compressed model back towards its parent: the same formats, bytes and zeros."""
    start(model)
    from gossamer.cli.show.progress import progress_bars
    from gossamer.cli.show.training import print_plan, print_recovered
    from gossamer.training.plan import plan
    from gossamer.training.recover import recover as run
    from gossamer.training.settings import TrainingSettings

    settings = TrainingSettings(
        train=train, embeddings=embeddings, learning_rate=learning_rate, batch=batch, length=length, rank=rank,  # type: ignore[arg-type]
        temperature=temperature, labels=labels, hidden=hidden, checkpointing=checkpointing, seed=seed,
        mask=mask, precision=precision,  # type: ignore[arg-type]
        all_reduce=all_reduce,  # type: ignore[arg-type]
        teacher_engine=teacher_engine,  # type: ignore[arg-type]
    )  # fmt: skip
    if dry_run:
        planned = plan(
            model, parent=parent, text=text or (), lessons=lessons, self_tokens=self_tokens, text_out=text_out,
            minutes=minutes, steps=steps, settings=settings,
        )  # fmt: skip
        print_result(planned, json_, print_plan)
        return
    with telling_what_is_kept(), progress_bars() as progress:
        result = run(
            model, parent=parent, out=out, text=text or (), lessons=lessons, self_tokens=self_tokens,
            text_out=text_out, minutes=minutes, steps=steps, settings=settings, overwrite=overwrite, resume=resume,
            progress=progress,
        )  # fmt: skip
    if result.record:  # else another than the first of several processes
        print_result(result, json_, print_recovered)
