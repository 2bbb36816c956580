"""How work that takes long tells how far it has come."""

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total). A total of 0 is no work but a notice, to be shown as it is."""
Count = Callable[[int, int], None]
"""Called with (done, total), where what is being done is clear."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def late(progress: Progress, seconds: float = 1.5) -> Progress:
    """Pass on only what is told so long from now: work that is over by then needs no telling."""
    begin = time.monotonic() + seconds

    def tell(what: str, done: int, total: int) -> None:
        if time.monotonic() >= begin:
            progress(what, done, total)

    return tell
