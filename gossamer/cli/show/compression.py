"""Tables about compressing: recipes, a plan, what a run wrote, what a search found."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gossamer.cli.show.tables import megabytes, number, output_console, print_rows, table_of

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.compression.compress import Compressed
    from gossamer.compression.preview import Preview
    from gossamer.frontier.results import SearchResult
    from gossamer.recipe.recipe import Recipe


def print_recipes(recipes: "Mapping[str, Recipe]") -> None:
    table = table_of("shipped recipes", "name", "what it does")
    table.columns[1].justify = "left"
    for name, recipe in recipes.items():
        table.add_row(name, recipe.description)
    output_console().print(table)


def print_preview(preview: "Preview") -> None:
    print_rows(
        f"plan for {preview.model} (nothing is written)",
        [
            (
                "matrices touched",
                f"{len(preview.layers)} (of {preview.num_linears} linears and the embeddings)",
            ),
            ("size in bf16", megabytes(preview.parent_bf16_bytes)),
            ("predicted size of the weights", megabytes(preview.predicted_bytes)),
            ("memory needed, about", megabytes(preview.memory_bytes)),
            ("disk needed while it runs, about", megabytes(preview.disk_bytes)),
            *[("note", note) for note in preview.untouched.notes],
        ],
    )
    table = table_of("steps", "layer", "steps")
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
    output_console().print(table)


def print_compressed(result: "Compressed") -> None:
    manifest = result.manifest
    size, run, parent = manifest["size"], manifest["run"], manifest["parent"]
    ranks = [layer["rank"] for layer in manifest["layers"] if layer["rank"] is not None]
    print_rows(
        f"wrote {result.folder}",
        [
            ("size", f"{megabytes(size['total_bytes'])} ({megabytes(parent['bf16_bytes'])} in bf16)"),
            ("sparsity of the blocks", f"{manifest['block_sparsity']:.2%}"),
            ("matrices packed", str(len(manifest["layers"]))),
            *([("rank of the low-rank parts", f"{min(ranks)} to {max(ranks)}")] if ranks else []),
            ("time", number(run["seconds"], 1, " s") + _phases(run["seconds_by_phase"])),
            (
                "peak memory",
                f"{megabytes(run['peak_memory_bytes'])} own, {megabytes(run['peak_resident_bytes'])} with mapped files",
            ),
            ("largest difference after loading", f"{manifest['reload_max_difference']:.1e}"),
            *[("note", note) for note in manifest["notes"]],
        ],
    )
    noted = [(layer["name"], note) for layer in manifest["layers"] for note in layer["notes"]]
    if noted:
        print_rows(f"{len(noted)} notes on layers; the first are", noted[:5])


def _phases(seconds: Mapping[str, float]) -> str:
    """The phases of a second or more, the longest first."""
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {taken:,.0f} s" for name, taken in longest if taken >= 1.0)
    return f", of which {shown}" if shown else ""


def print_search(result: "SearchResult") -> None:
    table = table_of(
        f"{result.model}: {result.budget}",
        "verified", "size", "ms per token", "perplexity", "of dense", "predicted", "recipe",
    )  # fmt: skip
    for point in result.points:
        figures = point.verified
        if figures is None:
            continue
        table.add_row(
            point.name,
            megabytes(figures.size_bytes),
            number(figures.latency_ms),
            number(figures.perplexity),
            number(figures.perplexity_ratio, 3, "x"),
            number(point.predicted.perplexity_ratio, 3, "x"),
            point.recipe,
        )
    console = output_console()
    console.print(table)
    levels = ", ".join(f"{count} {name}" for name, count in result.chosen.levels.items())
    for line in (f"chosen: {levels}", result.verdict, *result.notes):
        console.print(line, soft_wrap=True)
    recovered, files = result.recovered, result.files
    if recovered is not None:
        console.print(
            f"recovered: {number(recovered.perplexity_ratio, 3, 'x')} of dense, "
            f"{number(recovered.ratio_before, 3, 'x')} before, {recovered.tokens:,} tokens: {recovered.model}",
            soft_wrap=True,
        )
    for what, path in (
        ("recipe", files.recipe), ("result", files.result), ("page", files.page), ("model", files.model),
    ):  # fmt: skip
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True)
