"""Tables about training: a plan, what a run gave."""

from typing import TYPE_CHECKING, Any

from gossamer.cli.show.tables import megabytes, number, output_console, percent, print_rows, table_of

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.training.merge import Merged
    from gossamer.training.plan import Plan
    from gossamer.training.recover import Recovered

SHOWN = 10
"""Matrices of a merged adapter, those where least arrived."""


def print_plan(plan: "Plan") -> None:
    minutes = "" if plan.minutes is None else f"{plan.minutes:g} minutes"
    print_rows(
        f"plan for {plan.model} (nothing is written)",
        [
            ("teacher", plan.parent),
            ("trained", f"{plan.train}: {plan.trained:,} numbers"),
            ("kept weights of its matrices", f"{plan.kept_weights:,}"),
            ("zeros", f"{plan.removed_weights:,}, {'which stay' if plan.mask == 'fixed' else plan.mask}"),
            (
                "memory of the optimizer",
                f"{megabytes(plan.optimizer_bytes)} ({megabytes(plan.dense_optimizer_bytes)} without zeros)",
            ),
            ("memory needed, about", megabytes(plan.memory_bytes)),
            (
                "windows to learn from",
                f"{plan.windows:,} of {plan.length} tokens; {plan.held_out_windows} kept apart",
            ),
            ("a step", f"{plan.tokens_per_step:,} tokens"),
            ("learning rate", f"{plan.learning_rate:g}"),
            ("effort", minutes or f"{plan.steps} steps"),
            *[("note", note) for note in plan.notes],
        ],
    )


def print_recovered(result: "Recovered") -> None:
    record = result.record
    measure = "kl" if "held_out_kl" in record else "error"
    title = {"kl": "KL to the parent", "error": "error of the embeddings"}[measure]
    table = table_of("held-out text", "step", "tokens", "seconds", "loss", title, "perplexity")
    for point in record["curve"]:
        table.add_row(
            str(point["step"]), f"{point['tokens']:,}", number(point["seconds"], 0), number(point["loss"], 4),
            number(point[measure], 4), number(point["perplexity"]),
        )  # fmt: skip
    output_console().print(table)
    found = record[f"held_out_{measure}"]
    print_rows(
        f"wrote {result.folder}",
        [
            (f"held-out {title}", f"{found['before']:.4f} before, {found['after']:.4f} after"),
            ("learnt from", f"{record['tokens']:,} tokens in {record['steps']} steps"),
            (
                "time",
                f"{number(record['seconds'], 1, ' s')}, {record['tokens_per_s']:,.0f} tokens/s in training, "
                f"{record['share_of_peak']:.0%} of what the machine multiplies",
            ),
            _zeros(record),
            ("memory of the optimizer", megabytes(record["optimizer_bytes"])),
            *_sent(record),
            (
                "peak memory",
                f"{megabytes(record['peak_memory_bytes'])} own, "
                f"{megabytes(record['peak_resident_bytes'])} with mapped files",
            ),
            ("largest difference after loading", f"{record['reload_max_difference']:.1e}"),
            *[("note", note) for note in record["notes"]],
        ],
    )


def _zeros(record: dict[str, Any]) -> tuple[str, str]:
    told = f"{record['removed_weights']:,} beside {record['kept_weights']:,} kept weights"
    moved = record.get("moved")
    if moved is None:
        return "zeros that stayed", told
    return f"zeros ({moved['mask']})", f"{told}, of which {moved['share']:.1%} have other places than before"


def _sent(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What several processes sent each other; older records have none."""
    sent = record.get("all_reduce")
    if sent is None:
        return []
    whole = f"{sent['share_of_dense']:.3f} of the {megabytes(sent['dense_bytes_per_step'])} of whole matrices"
    told = f"{megabytes(sent['bytes_per_step'])} of gradients ({sent['type']}), {whole}"
    return [(f"each of {record['processes']} processes, in a step", told)]


def print_merged(result: "Merged") -> None:
    record = result.record
    table = table_of(
        "the adapter's change", "matrix", "arrived", "cosine", "relative error", "dropped", "weights changed"
    )
    rows = sorted(record["matrices"].items(), key=lambda row: row[1]["arrived"] or 0.0)
    for name, share in (("all", record["total"]), *rows[:SHOWN]):
        table.add_row(
            name, percent(share["arrived"]), number(share["cosine"], 3), number(share["relative_error"], 3),
            percent(share["dropped"]), f"{share['changed_weights']:,} of {share['kept_weights']:,}",
        )  # fmt: skip
    console = output_console()
    console.print(table)
    if len(rows) > SHOWN:
        console.print(
            f"those where least arrived; {len(rows) - SHOWN} more are in the manifest", soft_wrap=True
        )
    print_rows(
        f"wrote {result.folder}",
        [
            ("adapter", record["adapter"]["name"]),
            ("zeros that stayed", f"{record['removed_weights']:,} in {len(rows)} matrices"),
            *([("put in place", ", ".join(record["replaced"]))] if record["replaced"] else []),
            ("time", number(record["seconds"], 1, " s")),
            ("largest difference after loading", f"{record['reload_max_difference']:.1e}"),
            *[("note", note) for note in record["notes"]],
        ],
    )
