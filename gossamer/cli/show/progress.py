"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

if TYPE_CHECKING:
    from gossamer.progress import Progress


class Pace:
    """How fast work is done, from the first time that it was told of."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._begun: tuple[float, int] | None = None

    def told(self, done: int, total: int) -> str:
        """Return such as "412 tokens/s, 2 min left"; nothing where it is not known yet."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (now, done)
        seconds, since = now - self._begun[0], done - self._begun[1]
        if since <= 0 or seconds <= 0:
            return ""
        left = (total - done) * seconds / since
        shown = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        return f"{since / seconds:,.0f} {self.unit}/s, {shown} left"


class PaceColumn(ProgressColumn):
    """The pace of each bar, as it was when the bar last moved."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("pace", ""))


@contextmanager
def progress_bars(units: dict[str, str] | None = None) -> "Iterator[Progress]":
    """Show one bar for each thing that is being done; on stderr, and plain lines where that is no terminal.

    `units`: what is counted, of the things whose pace and remaining time are shown too.
    """
    console = Console(stderr=True, markup=False)
    paces = {what: Pace(unit) for what, unit in (units or {}).items()}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        PaceColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}
        said: set[tuple[str, int]] = set()

        def advance(what: str, done: int, total: int) -> None:
            if total == 0:
                console.print(what, style="bold", highlight=False, soft_wrap=True)
                return
            pace = paces[what].told(done, total) if what in paces else ""
            if not console.is_terminal:
                tenth = 10 * done // max(total, 1)
                if (what, tenth) not in said:
                    said.add((what, tenth))
                    console.print(f"{what}: {done}/{total}{pace and f', {pace}'}", highlight=False)
                return
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total, pace=pace)

        yield advance
