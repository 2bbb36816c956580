"""Tables of what was measured: quality, speed, and both in the demo."""

from typing import TYPE_CHECKING

from gossamer.cli.show.tables import MB, megabytes, number, output_console, print_rows, scaled, table_of

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.cli.demo import Demo
    from gossamer.evaluation.result import Evaluation
    from gossamer.evaluation.speed.result import Benchmark, ModelSpeed, Ratio


def print_evaluation(result: "Evaluation") -> None:
    skipped = ("model", "parent", "size_bytes", "parent_size_bytes", "parent_bf16_bytes")
    rows = [("size", megabytes(result.size_bytes))]
    if result.parent is not None:
        rows.append(
            (
                "parent's size",
                f"{megabytes(result.parent_size_bytes)} on disk, {megabytes(result.parent_bf16_bytes)} in bf16",
            )
        )
    for name, value in result.to_dict().items():
        if name not in skipped and value is not None:
            rows.append((name.replace("_", " "), f"{value:,.4f}" if isinstance(value, float) else str(value)))
    print_rows(f"{result.model} on {result.tokens or result.sentences} tokens or sentences", rows)


def print_benchmark(result: "Benchmark") -> None:
    own, against, ratios = result.own, result.against, result.ratios
    columns = ["", own.model, *([against.model, "ratio", "spread"] if against else [])]
    table = table_of(f"{own.threads} threads, prompt of {own.prompt_tokens} tokens", *columns)
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
    console = output_console()
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
        "decode, tokens/s": scaled(speed.decode_tokens_per_s),
        "prefill, tokens/s": scaled(speed.prefill_tokens_per_s),
        "load, s": scaled(speed.load_seconds),
        "peak memory, MB": scaled(speed.peak_memory_bytes, MB),
        "weights read for a token, MB": scaled(speed.weight_bytes_per_token, MB),
        "share of the bandwidth roofline": scaled(speed.roofline_share),
    }


def _ratio_cells(ratio: "Ratio | None") -> list[str]:
    return [] if ratio is None else [f"{ratio.ratio:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"]


def print_demo(result: "Demo") -> None:
    table = table_of(
        result.title, "model", "size", "perplexity", "KL", "decode tok/s", "x dense bf16", "peak memory"
    )
    for row in result.rows:
        table.add_row(
            row.name,
            megabytes(row.size_bytes),
            number(row.perplexity),
            number(row.kl_mean, 3),
            number(row.decode_tokens_per_s, 1),
            number(row.decode_ratio, 2),
            megabytes(row.peak_memory_bytes),
        )
    console = output_console()
    console.print(table)
    for line in result.notes:
        console.print(line)
    console.print(f"report: {result.report}")
    console.print(f"time: {number(result.seconds / 60, 1)} minutes")
    console.print(f"\nasked: {result.prompt}", style="bold")
    for answer in result.answers:
        console.print(
            f"{answer.name} ({number(answer.tokens_per_s, 0)} tokens/s): {answer.text}", soft_wrap=True
        )
    console.print("\nnext:", style="bold")
    for command in result.next_commands:
        console.print(f"  {command}", soft_wrap=True)
