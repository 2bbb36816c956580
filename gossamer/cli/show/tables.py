"""What all tables are made of: columns, rows, numbers with their units."""

from rich.console import Console
from rich.table import Table

MB = 1e6
PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe."""


def output_console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    table = table_of("", "", "")
    table.show_header = False
    for name, value in rows:
        table.add_row(name, value)
    console = output_console()
    console.print(title, style="bold", soft_wrap=True)  # paths must stay whole
    console.print(table)


def megabytes(num_bytes: float | None) -> str:
    return "not measured" if num_bytes is None else f"{num_bytes / MB:,.1f} MB"


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:,.{digits}f}{unit}"


def scaled(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:,.2f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
