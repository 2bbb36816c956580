"""How a command starts: what other libraries say is kept off stderr, and the large ones are imported quickly."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gossamer.cli.light_import import import_transformers


@contextmanager
def only_our_words() -> Iterator[None]:
    """Let through to stderr what Gossamer's log says, and no warning or log line of another library.

    What is not ours is for developers: `--debug` shows it.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.name.partition(".")[0] == "gossamer" and _is_first())
    handler.setFormatter(logging.Formatter("gossamer: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)


def start(model: str, *, passive_threads: bool = True) -> None:
    """Say at once what is opened, then import what every model needs.

    Args:
        model: what to name.
        passive_threads: keep torch's threads from spinning for work, which makes busy machines crawl. Not where
        speed is measured: the dense model has to run as its users run it.
    """
    if _is_first():
        typer.echo(f"opening {model}", err=True)
    if passive_threads:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import_transformers()
    from transformers.utils import logging as transformers_logging

    if logging.getLogger().level > logging.DEBUG:
        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()


def _is_first() -> bool:
    """True in the process that speaks: every process that torchrun did not start, and its first."""
    return os.environ.get("RANK", "0") == "0"
