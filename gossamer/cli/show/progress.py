"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from gossamer.progress import Progress


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
