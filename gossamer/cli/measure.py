"""Commands that measure a model: `gossamer evaluate`, `gossamer bench`, and `gossamer demo`, which does it all."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli.arguments import Activations, Engine, Json, Model
from gossamer.cli.output import print_result
from gossamer.cli.start import start
from gossamer.errors import UsageError


def evaluate(
    model: Model,
    text: Annotated[str, typer.Option(help="Text to measure on; nothing that the model was calibrated on.")],
    against: Annotated[
        str | None, typer.Option(metavar="PARENT", help="The dense parent to compare with.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a window.")] = None,
    windows: Annotated[int | None, typer.Option(help="At most so many windows.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens from window to window; default: no overlap.")
    ] = None,
    activations: Activations = None,
    engine: Engine = "auto",
    max_ratio: Annotated[
        float | None, typer.Option(help="Exit with 1 if perplexity / parent's is above this.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measure perplexity, bits per byte, and divergence from the parent."""
    start(model)
    from gossamer.checkpoint.manifest import remember
    from gossamer.cli.show.measured import print_evaluation
    from gossamer.cli.show.progress import progress_bars
    from gossamer.evaluation.evaluate import evaluate as run

    if max_ratio is not None and not max_ratio > 0:
        raise UsageError(f"--max-ratio: expected a number above 0, got {max_ratio}.")
    if max_ratio is not None and against is None:
        raise UsageError("--max-ratio compares with the parent: give --against too.")
    with progress_bars() as progress:
        result = run(
            model, text=text, against=against, length=length, num_windows=windows, stride=stride,
            activations=activations, engine=engine, progress=progress,
        )  # fmt: skip
    remember(model, "evaluation", result.to_dict())
    print_result(result, json_, print_evaluation)
    if max_ratio is None:
        return
    if result.perplexity_ratio is None:
        raise UsageError("--max-ratio is about perplexity, which only causal models have.")
    if not result.perplexity_ratio <= max_ratio:
        raise typer.Exit(1)


def bench(
    model: Model,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measured interleaved, for ratios.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: every core of this process.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text to start from; default: 64 random tokens.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens decoded in each round.")] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds that count.")] = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the random prompt.")] = 64,
    activations: Activations = None,
    engine: Engine = "auto",
    peer: Annotated[
        str,
        typer.Option(
            help="What runs --against: native, torch, llama.cpp, or auto: llama.cpp for .gguf if llama-bench is found."
        ),
    ] = "auto",
    json_: Json = False,
) -> None:
    """Measure load time, prefill, decode, memory, and the share of the memory bandwidth that is reached."""
    start(model, passive_threads=False)
    from gossamer.checkpoint.manifest import remember
    from gossamer.cli.show.measured import print_benchmark
    from gossamer.cli.show.progress import progress_bars
    from gossamer.evaluation.speed.bench import benchmark

    with progress_bars() as progress:
        result = benchmark(
            model, against=against, threads=threads, prompt=prompt, tokens=tokens, repeats=repeats,
            prompt_tokens=prompt_tokens, activations=activations, engine=engine, peer=peer, progress=progress,
        )  # fmt: skip
    remember(model, "benchmark", result.to_dict())
    print_result(result, json_, print_benchmark)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    json_: Json = False,
) -> None:
    """Compress SmolLM2-135M by several recipes, measure each, print the table and write report.html."""
    from gossamer.cli.demo import run
    from gossamer.cli.show.measured import print_demo
    from gossamer.cli.show.progress import progress_bars

    with progress_bars() as progress:
        result = run(out, progress)
    print_result(result, json_, print_demo)
