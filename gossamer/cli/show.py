"""What the commands show a person: tables on stdout, progress bars on stderr."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.checkpoint.summary import Summary
    from gossamer.cli.demo import Demo
    from gossamer.compression.compress import Compressed
    from gossamer.compression.preview import Preview
    from gossamer.evaluation.result import Evaluation
    from gossamer.evaluation.speed.result import Benchmark, ModelSpeed, Ratio
    from gossamer.frontier.results import SearchResult
    from gossamer.progress import Progress
    from gossamer.recipe.recipe import Recipe
    from gossamer.rotation.result import Rotated

MB = 1e6
PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def _out() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


@contextmanager
def progress_bars() -> "Iterator[Progress]":
    """Show one bar for each thing that is being done; on stderr, and plain lines where that is no terminal."""
    console = Console(stderr=True, markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}
        said: set[tuple[str, int]] = set()

        def advance(what: str, done: int, total: int) -> None:
            if total == 0:
                console.print(what, style="bold", highlight=False, soft_wrap=True)
                return
            if not console.is_terminal:
                tenth = 10 * done // max(total, 1)
                if (what, tenth) not in said:
                    said.add((what, tenth))
                    console.print(f"{what}: {done}/{total}", highlight=False)
                return
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield advance


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _rows(title: str, rows: list[tuple[str, str]]) -> None:
    table = _table("", "", "")
    table.show_header = False
    for name, value in rows:
        table.add_row(name, value)
    console = _out()
    console.print(title, style="bold", soft_wrap=True)  # paths must stay whole
    console.print(table)


def _mb(num_bytes: float | None) -> str:
    return "not measured" if num_bytes is None else f"{num_bytes / MB:,.1f} MB"


def _number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:,.{digits}f}{unit}"


def print_summary(summary: "Summary") -> None:
    table = _table(
        f"{summary.model_class} ({summary.model_type}), {summary.num_blocks} blocks, "
        f"{summary.num_parameters:,} parameters, {_mb(summary.size_bytes)} on disk, "
        f"{summary.bits_per_parameter:.2f} bits per parameter, sparsity of blocks {summary.sparsity:.1%}",
        "matrix",
        "shape",
        "format",
        "sparsity",
        "bytes",
    )
    for matrix in summary.matrices:
        rows, columns = matrix.shape
        table.add_row(
            matrix.name,
            f"{rows} x {columns}",
            matrix.format,
            f"{matrix.sparsity:.1%}",
            f"{matrix.size_bytes:,}",
        )
    for other in summary.others:
        held = f"{other.expert_matrices} matrices of experts" if other.expert_matrices else "no linear"
        table.add_row(
            other.name,
            " x ".join(map(str, other.shape)),
            held,
            f"{other.sparsity:.1%}",
            "stays dense",
        )
    console = _out()
    console.print(table)
    for note in summary.untouched.notes:
        console.print(note, style="bold", soft_wrap=True)


def print_preview(preview: "Preview") -> None:
    _rows(
        f"plan for {preview.model} (nothing is written)",
        [
            (
                "matrices touched",
                f"{len(preview.layers)} (of {preview.num_linears} linears and the embeddings)",
            ),
            ("size in bf16", _mb(preview.parent_bf16_bytes)),
            ("predicted size of the weights", _mb(preview.predicted_bytes)),
            ("memory needed, about", _mb(preview.memory_bytes)),
            ("disk needed while it runs, about", _mb(preview.disk_bytes)),
            *[("note", note) for note in preview.untouched.notes],
        ],
    )
    table = _table("steps", "layer", "steps")
    groups: dict[str, list[str]] = {}
    for name, steps in preview.layers.items():
        text = ", then ".join(
            " ".join(
                [
                    step.method,
                    *(f"{k}={v}" for k, v in step.to_dict().items() if k not in ("method", "layers")),
                ]
            )
            for step in steps
        )
        groups.setdefault(text, []).append(name)
    for text, names in groups.items():
        table.add_row(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", text)
    _out().print(table)


def print_compressed(result: "Compressed") -> None:
    manifest = result.manifest
    size, run, parent = manifest["size"], manifest["run"], manifest["parent"]
    ranks = [layer["rank"] for layer in manifest["layers"] if layer["rank"] is not None]
    _rows(
        f"wrote {result.folder}",
        [
            ("size", f"{_mb(size['total_bytes'])} ({_mb(parent['bf16_bytes'])} in bf16)"),
            ("sparsity of the blocks", f"{manifest['block_sparsity']:.2%}"),
            ("matrices packed", str(len(manifest["layers"]))),
            *([("rank of the low-rank parts", f"{min(ranks)} to {max(ranks)}")] if ranks else []),
            ("time", _number(run["seconds"], 1, " s")),
            (
                "peak memory",
                f"{_mb(run['peak_memory_bytes'])} own, {_mb(run['peak_resident_bytes'])} with mapped files",
            ),
            ("largest difference after loading", f"{manifest['reload_max_difference']:.1e}"),
            *[("note", note) for note in manifest["notes"]],
        ],
    )
    noted = [(layer["name"], note) for layer in manifest["layers"] for note in layer["notes"]]
    if noted:
        _rows(f"{len(noted)} notes on layers; the first are", noted[:5])


def print_evaluation(result: "Evaluation") -> None:
    skipped = ("model", "parent", "size_bytes", "parent_size_bytes", "parent_bf16_bytes")
    rows = [("size", _mb(result.size_bytes))]
    if result.parent is not None:
        rows.append(
            (
                "parent's size",
                f"{_mb(result.parent_size_bytes)} on disk, {_mb(result.parent_bf16_bytes)} in bf16",
            )
        )
    for name, value in result.to_dict().items():
        if name not in skipped and value is not None:
            rows.append((name.replace("_", " "), f"{value:,.4f}" if isinstance(value, float) else str(value)))
    _rows(f"{result.model} on {result.tokens or result.sentences} tokens or sentences", rows)


def print_benchmark(result: "Benchmark") -> None:
    own, against, ratios = result.own, result.against, result.ratios
    columns = ["", own.model, *([against.model, "ratio", "spread"] if against else [])]
    table = _table(f"{own.threads} threads, prompt of {own.prompt_tokens} tokens", *columns)
    compared = {} if ratios is None else {
        "decode, tokens/s": ratios.decode,
        "prefill, tokens/s": ratios.prefill,
        "load, s": ratios.load,
        "peak memory, MB": ratios.memory,
    }  # fmt: skip
    shown = _speed_figures(own)
    others = _speed_figures(against) if against else {}
    for label, figure in shown.items():
        row = [label, figure, *([others[label]] if against else [])]
        table.add_row(*row, *_ratio_cells(compared.get(label)))
    console = _out()
    console.print(table)
    console.print(
        f"read bandwidth {own.read_bandwidth_gb_per_s:.1f} GB/s, {result.repeats} rounds, {result.cpu}"
        + (", NOISY: other processes or the hypervisor took time" if result.noisy else "")
    )


def _speed_figures(speed: "ModelSpeed") -> dict[str, str]:
    """The lines of the table of speeds for one model."""
    return {
        "engine": speed.engine,
        "activations": speed.activations,
        "decode, tokens/s": _scaled(speed.decode_tokens_per_s),
        "prefill, tokens/s": _scaled(speed.prefill_tokens_per_s),
        "load, s": _scaled(speed.load_seconds),
        "peak memory, MB": _scaled(speed.peak_memory_bytes, MB),
        "weights read for a token, MB": _scaled(speed.weight_bytes_per_token, MB),
        "share of the bandwidth roofline": _scaled(speed.roofline_share),
    }


def _ratio_cells(ratio: "Ratio | None") -> list[str]:
    return [] if ratio is None else [f"{ratio.ratio:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"]


def _scaled(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:,.2f}"


def print_recipes(recipes: "Mapping[str, Recipe]") -> None:
    table = _table("shipped recipes", "name", "what it does")
    table.columns[1].justify = "left"
    for name, recipe in recipes.items():
        table.add_row(name, recipe.description)
    _out().print(table)


def print_rotated(result: "Rotated") -> None:
    rows = [("size of the weights", f"{_mb(result.weights_bytes)}, {result.dtype}")]
    if result.untied_bytes:
        rows.append(("of which the head, untied", _mb(result.untied_bytes)))
    for part, matrix in (("values", result.values), ("residual", result.residual)):
        if matrix is not None:
            rows.append((f"{part} rotated by", f"{matrix.matrix} matrix of order {matrix.size}"))
    _rows(f"wrote {result.folder}", rows)


def print_demo(result: "Demo") -> None:
    table = _table(
        result.title, "model", "size", "perplexity", "KL", "decode tok/s", "x dense bf16", "peak memory"
    )
    for row in result.rows:
        table.add_row(
            row.name,
            _mb(row.size_bytes),
            _number(row.perplexity),
            _number(row.kl_mean, 3),
            _number(row.decode_tokens_per_s, 1),
            _number(row.decode_ratio, 2),
            _mb(row.peak_memory_bytes),
        )
    console = _out()
    console.print(table)
    for line in result.notes:
        console.print(line)
    console.print(f"report: {result.report}")


def print_search(result: "SearchResult") -> None:
    table = _table(
        f"{result.model}: {result.budget}",
        "verified", "size", "ms per token", "perplexity", "of dense", "predicted", "recipe",
    )  # fmt: skip
    for point in result.points:
        figures = point.verified
        if figures is None:
            continue
        table.add_row(
            point.name,
            _mb(figures.size_bytes),
            _number(figures.latency_ms),
            _number(figures.perplexity),
            _number(figures.perplexity_ratio, 3, "x"),
            _number(point.predicted.perplexity_ratio, 3, "x"),
            point.recipe,
        )
    console = _out()
    console.print(table)
    levels = ", ".join(f"{count} {name}" for name, count in result.chosen.levels.items())
    for line in (f"chosen: {levels}", result.verdict, *result.notes):
        console.print(line, soft_wrap=True)
    files = result.files
    for what, path in (
        ("recipe", files.recipe), ("result", files.result), ("page", files.page), ("model", files.model),
    ):  # fmt: skip
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True)
