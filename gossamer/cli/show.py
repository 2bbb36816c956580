"""What the commands show a person: tables on stdout, progress bars on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

MB = 1e6
PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def _out() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar for each thing that is being done; on stderr, and plain lines where that is no terminal."""
    console = Console(stderr=True, markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}
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


def print_summary(summary: dict[str, Any]) -> None:
    table = _table(
        f"{summary['model_class']} ({summary['model_type']}), {summary['num_blocks']} blocks, "
        f"{summary['num_parameters']:,} parameters, {_mb(summary['size_bytes'])} on disk, "
        f"{summary['bits_per_parameter']:.2f} bits per parameter, sparsity of blocks {summary['sparsity']:.1%}",
        "matrix",
        "shape",
        "format",
        "sparsity",
        "bytes",
    )
    for matrix in summary["matrices"]:
        rows, columns = matrix["shape"]
        table.add_row(
            matrix["name"],
            f"{rows} x {columns}",
            matrix["format"],
            f"{matrix['sparsity']:.1%}",
            f"{matrix['size_bytes']:,}",
        )
    for other in summary["others"]:
        held = f"{other['expert_matrices']} matrices of experts" if other["expert_matrices"] else "no linear"
        table.add_row(
            other["name"],
            " x ".join(map(str, other["shape"])),
            held,
            f"{other['sparsity']:.1%}",
            "stays dense",
        )
    console = _out()
    console.print(table)
    for note in summary["notes"]:
        console.print(note, style="bold", soft_wrap=True)


def print_plan(plan: dict[str, Any]) -> None:
    _rows(
        f"plan for {plan['model']} (nothing is written)",
        [
            (
                "matrices touched",
                f"{len(plan['layers'])} (of {plan['num_linears']} linears and the embeddings)",
            ),
            ("size in bf16", _mb(plan["parent_bf16_bytes"])),
            ("predicted size of the weights", _mb(plan["predicted_bytes"])),
            ("memory needed, about", _mb(plan["memory_bytes"])),
            ("disk needed while it runs, about", _mb(plan["disk_bytes"])),
            *[("note", note) for note in plan["notes"]],
        ],
    )
    table = _table("steps", "layer", "steps")
    groups: dict[str, list[str]] = {}
    for name, steps in plan["layers"].items():
        text = ", then ".join(
            " ".join(
                [step["method"], *(f"{k}={v}" for k, v in step.items() if k not in ("method", "layers"))]
            )
            for step in steps
        )
        groups.setdefault(text, []).append(name)
    for text, names in groups.items():
        table.add_row(names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more", text)
    _out().print(table)


def print_compressed(result: dict[str, Any]) -> None:
    size, run, parent = result["size"], result["run"], result["parent"]
    ranks = [layer["rank"] for layer in result["layers"] if layer["rank"] is not None]
    _rows(
        f"wrote {result['folder']}",
        [
            ("size", f"{_mb(size['total_bytes'])} ({_mb(parent['bf16_bytes'])} in bf16)"),
            ("sparsity of the blocks", f"{result['block_sparsity']:.2%}"),
            ("matrices packed", str(len(result["layers"]))),
            *([("rank of the low-rank parts", f"{min(ranks)} to {max(ranks)}")] if ranks else []),
            ("time", _number(run["seconds"], 1, " s")),
            (
                "peak memory",
                f"{_mb(run['peak_memory_bytes'])} own, {_mb(run['peak_resident_bytes'])} with mapped files",
            ),
            ("largest difference after loading", f"{result['reload_max_difference']:.1e}"),
            *[("note", note) for note in result["notes"]],
        ],
    )
    noted = [(layer["name"], note) for layer in result["layers"] for note in layer["notes"]]
    if noted:
        _rows(f"{len(noted)} notes on layers; the first are", noted[:5])


def print_evaluation(result: dict[str, Any]) -> None:
    skipped = ("model", "parent", "size_bytes", "parent_size_bytes", "parent_bf16_bytes")
    rows = [("size", f"{_mb(result['size_bytes'])}")]
    if result["parent"] is not None:
        rows.append(
            (
                "parent's size",
                f"{_mb(result['parent_size_bytes'])} on disk, {_mb(result['parent_bf16_bytes'])} in bf16",
            )
        )
    for name, value in result.items():
        if name not in skipped and value is not None:
            rows.append((name.replace("_", " "), f"{value:,.4f}" if isinstance(value, float) else str(value)))
    _rows(f"{result['model']} on {result.get('tokens') or result.get('sentences')} tokens or sentences", rows)


def print_benchmark(result: dict[str, Any]) -> None:
    against = result.get("against")
    columns = ["", result["model"], *([against["model"], "ratio", "spread"] if against else [])]
    table = _table(f"{result['threads']} threads, prompt of {result['prompt_tokens']} tokens", *columns)
    lines = [
        ("engine", "engine", None, 1.0),
        ("activations", "activations", None, 1.0),
        ("decode, tokens/s", "decode_tokens_per_s", "decode", 1.0),
        ("prefill, tokens/s", "prefill_tokens_per_s", "prefill", 1.0),
        ("load, s", "load_seconds", "load", 1.0),
        ("peak memory, MB", "peak_memory_bytes", "memory", MB),
        ("weights read for a token, MB", "weight_bytes_per_token", None, MB),
        ("share of the bandwidth roofline", "roofline_share", None, 1.0),
    ]
    for label, key, ratio_key, unit in lines:
        row = [label, *[_scaled(each[key], unit) for each in (result, against) if each is not None]]
        ratio = result["ratios"].get(ratio_key) if against and ratio_key else None
        if ratio is not None:
            row += [f"{ratio['ratio']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"]
        table.add_row(*row)
    console = _out()
    console.print(table)
    console.print(
        f"read bandwidth {result['read_bandwidth_gb_per_s']:.1f} GB/s, {result['repeats']} rounds, {result['cpu']}"
        + (", NOISY: other processes or the hypervisor took time" if result["noisy"] else "")
    )


def _scaled(value: float | str | None, unit: float) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None else f"{value / unit:,.2f}"


def print_recipes(recipes: dict[str, Any]) -> None:
    table = _table("shipped recipes", "name", "what it does")
    table.columns[1].justify = "left"
    for name, recipe in recipes.items():
        table.add_row(name, recipe["description"])
    _out().print(table)


def print_rotated(result: dict[str, Any]) -> None:
    rows = [("size of the weights", f"{_mb(result['weights_bytes'])}, {result['dtype']}")]
    if result["untied_bytes"]:
        rows.append(("of which the head, untied", _mb(result["untied_bytes"])))
    for part in ("values", "residual"):
        if rotation := result[part]:
            rows.append((f"{part} rotated by", f"{rotation['matrix']} matrix of order {rotation['size']}"))
    _rows(f"wrote {result['folder']}", rows)


def print_demo(result: dict[str, Any]) -> None:
    table = _table(
        result["title"], "model", "size", "perplexity", "KL", "decode tok/s", "x dense bf16", "peak memory"
    )
    for row in result["rows"]:
        table.add_row(
            row["name"],
            _mb(row["size_bytes"]),
            _number(row.get("perplexity")),
            _number(row.get("kl_mean"), 3),
            _number(row.get("decode_tokens_per_s"), 1),
            _number(row.get("decode_ratio"), 2),
            _mb(row.get("peak_memory_bytes")),
        )
    console = _out()
    console.print(table)
    for line in result["notes"]:
        console.print(line)
    console.print(f"report: {result['report']}")


def print_search(result: dict[str, Any]) -> None:
    table = _table(
        f"{result['model']}: {result['budget']}",
        "verified", "size", "ms per token", "perplexity", "of dense", "predicted", "recipe",
    )  # fmt: skip
    for point in result["points"]:
        figures = point["verified"]
        if figures is None:
            continue
        table.add_row(
            point["name"],
            _mb(figures["size_bytes"]),
            _number(figures["latency_ms"]),
            _number(figures["perplexity"]),
            _number(figures["perplexity_ratio"], 3, "x"),
            _number(point["predicted"]["perplexity_ratio"], 3, "x"),
            point["recipe"],
        )
    console = _out()
    console.print(table)
    levels = ", ".join(f"{count} {name}" for name, count in result["chosen"]["levels"].items())
    for line in (f"chosen: {levels}", result["verdict"], *result["notes"]):
        console.print(line, soft_wrap=True)
    for what, path in result["files"].items():
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True)
