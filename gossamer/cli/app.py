"""The command line: thin commands around the public verbs.

Results go to stdout (`--json` for machines), progress to stderr. Exit codes: 0 done, 1 a check failed, 2 wrong use or
bad input. Everything heavy is imported inside the commands, so that `gossamer --help` answers at once.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from gossamer.cli.arguments import Activations, Engine, Json, Model, Out, Overwrite
from gossamer.cli.generate import generate
from gossamer.errors import GossamerError, UsageError
from gossamer.version import __version__

app = typer.Typer(
    name="gossamer",
    help="Make language models sparse: smaller on disk, smaller in memory, really faster, with the cost shown.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
"""Exit code of a command that was interrupted, as shells have it."""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    # --debug itself is read by main(), which outlives the command
    if version:
        typer.echo(f"gossamer {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command()
def inspect(model: Model, json_: Json = False) -> None:
    """Show what a model is made of: blocks, linears, shapes, bytes, present sparsity and formats."""
    from gossamer.checkpoint.summary import inspect as run
    from gossamer.cli.show import print_summary

    _print(run(model), json_, print_summary)


@app.command()
def compress(
    model: Model,
    recipe: Annotated[
        str, typer.Option(help="Name of a shipped recipe (see `gossamer recipes`), or a file.")
    ],
    out: Out,
    text: Annotated[str | None, typer.Option(help="Calibration text: file, folder or data set.")] = None,
    samples: Annotated[int | None, typer.Option(help="Windows of text to calibrate on.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a window.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which windows are drawn.")] = None,
    layers: Annotated[str | None, typer.Option(metavar="GLOB", help="Touch only these layers.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run to the same --out was stopped, if one was.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="What the run may take: a recipe that prunes trains each block as long as it lasts."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the blocks are compressed, such as cuda.")] = "cpu",
    json_: Json = False,
) -> None:
    """Prune and quantize a model by a recipe, and write the smaller folder."""
    _let_waiting_threads_sleep()
    from gossamer.cli.show import print_compressed, print_preview, progress_bars
    from gossamer.compression.compress import compress as run
    from gossamer.compression.compress import preview, usable_device

    if dry_run:
        usable_device(device)
        previewed = preview(model, recipe, samples=samples, length=length, layers=layers, minutes=minutes)
        _print(previewed, json_, print_preview)
        return
    try:
        with progress_bars() as progress:
            result = run(
                model, recipe, out=out, text=text, samples=samples, length=length, seed=seed, layers=layers,
                overwrite=overwrite, resume=resume, minutes=minutes, device=device,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt as interrupt:
        if not (kept := _notes(interrupt)):
            raise
        typer.echo(f"gossamer: interrupted{kept}", err=True)
        sys.exit(INTERRUPTED)
    if not result.manifest:  # another than the first of several processes
        return
    if json_:
        _print_json({"folder": str(result.folder), **result.manifest})
    else:
        print_compressed(result)


@app.command()
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
    _let_waiting_threads_sleep()
    from gossamer.checkpoint.manifest import remember
    from gossamer.cli.show import print_evaluation, progress_bars
    from gossamer.evaluation.evaluate import evaluate as run

    if max_ratio is not None and against is None:
        raise UsageError("--max-ratio compares with the parent: give --against too.")
    with progress_bars() as progress:
        result = run(
            model, text=text, against=against, length=length, num_windows=windows, stride=stride,
            activations=activations, engine=engine, progress=progress,
        )  # fmt: skip
    remember(model, "evaluation", result.to_dict())
    _print(result, json_, print_evaluation)
    if max_ratio is None:
        return
    if result.perplexity_ratio is None:
        raise UsageError("--max-ratio is about perplexity, which only causal models have.")
    if not result.perplexity_ratio <= max_ratio:
        raise typer.Exit(1)


@app.command()
def bench(
    model: Model,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Measured interleaved, for ratios.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Default: every core of this process.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text to start from; default: 64 random tokens.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens decoded in each round.")] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds that count.")] = 5,
    prompt_tokens: Annotated[int, typer.Option(help="Length of the random prompt.")] = 64,
    activations: Activations = None,
    engine: Engine = "auto",
    peer: Annotated[
        str,
        typer.Option(
            help="What runs --against: native, torch, llama.cpp, or auto: llama.cpp for .gguf if installed."
        ),
    ] = "auto",
    json_: Json = False,
) -> None:
    """Measure load time, prefill, decode, memory, and the share of the memory bandwidth that is reached."""
    from gossamer.checkpoint.manifest import remember
    from gossamer.cli.show import print_benchmark, progress_bars
    from gossamer.evaluation.speed.bench import benchmark

    with progress_bars() as progress:
        result = benchmark(
            model, against=against, threads=threads, prompt=prompt, tokens=tokens, repeats=repeats,
            prompt_tokens=prompt_tokens, activations=activations, engine=engine, peer=peer, progress=progress,
        )  # fmt: skip
    remember(model, "benchmark", result.to_dict())
    _print(result, json_, print_benchmark)


app.command()(generate)


@app.command()
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
    seed: Annotated[int | None, typer.Option(help="Which windows are drawn.")] = None,
    windows: Annotated[int, typer.Option(help="Held-out windows that perplexity is measured on.")] = 8,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the chosen model too.")] = False,
    json_: Json = False,
) -> None:
    """Search for the best recipe within a budget: predict, verify, write recipes and a plot."""
    _let_waiting_threads_sleep()
    from gossamer.cli.show import print_search, progress_bars
    from gossamer.frontier.search import search as run

    try:
        with progress_bars() as progress:
            result = run(
                model, budget=budget, text=text, out=out, minutes=minutes, samples=samples, length=length,
                seed=seed, windows=windows, keep=keep, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(f"gossamer: interrupted; the same command goes on from {out}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print(result, json_, print_search)
    if result.reached is False:
        raise typer.Exit(1)


@app.command()
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
    _print_path("report", out, json_)


@app.command()
def recipes(json_: Json = False) -> None:
    """List the shipped recipes and what each does."""
    from gossamer.cli.show import print_recipes
    from gossamer.recipe.reader import shipped_recipes

    shipped = shipped_recipes()
    if json_:
        _print_json({name: recipe.to_dict() for name, recipe in shipped.items()})
    else:
        print_recipes(shipped)


@app.command()
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
    from gossamer.checkpoint.write.export import export as run

    path = run(folder, out, format=format, dtype=dtype, overwrite=overwrite)
    _print_path("folder", path, json_)


@app.command()
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
    seed: Annotated[int, typer.Option(help="Which signs the Hadamard matrices get.")] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. Default: the parent's; of a GGUF file float16."),
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Write a dense model that computes the same with rotated weights, to quantize it."""
    from gossamer.cli.show import print_rotated, progress_bars
    from gossamer.rotation.rotate import rotate as run

    with progress_bars() as progress:
        result = run(
            model, out, what=what, untie=untie, seed=seed, dtype=dtype, overwrite=overwrite, progress=progress
        )
    _print(result, json_, print_rotated)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo"),
    json_: Json = False,
) -> None:
    """Compress SmolLM2-135M by several recipes, measure each, print the table and write report.html."""
    from gossamer.cli.demo import run
    from gossamer.cli.show import print_demo, progress_bars

    with progress_bars() as progress:
        result = run(out, progress)
    _print(result, json_, print_demo)


def _let_waiting_threads_sleep() -> None:
    """Keep torch's threads from spinning for work, which makes busy machines crawl; before torch is imported.

    Not where speed is measured: the dense model has to run as its users run it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _Result(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


_R = TypeVar("_R", bound=_Result)


def _print(result: _R, as_json: bool, show: Callable[[_R], None]) -> None:
    if as_json:
        _print_json(result.to_dict())
    else:
        show(result)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _print_path(what: str, path: Path, as_json: bool) -> None:
    """Say what was written."""
    if as_json:
        _print_json({what: str(path)})
    else:
        typer.echo(f"wrote {path}")


def main() -> None:
    """Entry point: run a command; turn our errors into one message and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # so typer says it
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (GossamerError, typer.TyperException) as error:
        _fail(_message(error), debug, error)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("gossamer: interrupted; nothing was written", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _fail(
            f"unexpected {type(error).__name__}: {error} (a defect; run with --debug and report it)"
            + _notes(error),
            debug,
            error,
        )


def _message(error: Exception) -> str:
    return error.format_message() if isinstance(error, typer.TyperException) else f"{error}{_notes(error)}"


def _notes(error: BaseException) -> str:
    """What was added to an error on its way: that a stopped run can go on, and how."""
    return "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))


def _fail(message: str, debug: bool, error: BaseException) -> None:
    if debug:
        raise error
    typer.echo(f"gossamer: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
