"""Tables about lessons."""

from typing import TYPE_CHECKING

from gossamer.cli.show.tables import megabytes, number, output_console, print_rows

if TYPE_CHECKING:  # what is shown; importing it takes seconds
    from gossamer.training.lessons.result import LessonPlan, Taught


def print_plan(plan: "LessonPlan") -> None:
    rows = [*_what(plan), ("size", f"{_size(plan.size_bytes)}, {plan.bytes_per_token:.0f} bytes a token")]
    print_rows("would be taught", rows)
    for note in plan.notes:
        output_console().print(note, style="bold", soft_wrap=True)


def print_taught(taught: "Taught") -> None:
    rows = [
        *_what(taught.plan),
        ("size", f"{_size(taught.size_bytes)}, {taught.bytes_per_token:.1f} bytes a token"),
        ("time", number(taught.seconds, 1, " s")),
        ("speed", number(taught.tokens_per_s, 0, " tokens/s")),
    ]
    if taught.resumed_windows:
        rows.append(("windows of an earlier run", f"{taught.resumed_windows:,}"))
    print_rows(f"wrote {taught.folder}", rows)


def _what(plan: "LessonPlan") -> list[tuple[str, str]]:
    teachers = [f"{name} ({engine})" for name, engine in zip(plan.teachers, plan.engines, strict=True)]
    kept = (
        f"the {plan.count} likeliest tokens, and the rest"
        if plan.kind == "top-k"
        else f"{plan.count} samples"
    )
    return [
        ("teacher" if len(teachers) == 1 else "mean of teachers", ", ".join(teachers)),
        ("text", f"{plan.windows:,} windows of {plan.length:,} tokens"),
        ("kept of an answer", f"{kept}, of {plan.vocabulary:,}"),
    ]


def _size(size_bytes: int) -> str:
    return megabytes(size_bytes) if size_bytes >= 100_000 else f"{size_bytes:,} bytes"
