"""`compress` and `recover` in one run: the folder appears once, recovered, with the history of both.

.NAME.both/small         what `compress` wrote; from there on a stopped run recovers
.NAME.both/.small.run    what `compress` has kept until then (checkpoint/write/work_folder.py)
.NAME.run                what `recover` has kept
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.checkpoint.manifest import read_manifest
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.distributed.processes import Processes
from gossamer.errors import UsageError
from gossamer.progress import Progress
from gossamer.training.recover import recover
from gossamer.training.schedule import check_effort
from gossamer.training.settings import TrainingSettings
from gossamer.training.shown import kind_of
from gossamer.training.text import read_text


@dataclass(frozen=True)
class Recovery:
    """How a model is to be recovered once it is compressed."""

    minutes: float | None
    steps: int | None
    text: str
    settings: TrainingSettings

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a stopped run to go on."""
        return {
            "recover minutes": self.minutes,
            "recover steps": self.steps,
            "recover length": self.settings.length,
            "recover seed": self.settings.seed,
        }


def recovery_of(
    minutes: float | None, steps: int | None, text: str | None, length: int | None, seed: int
) -> Recovery | None:
    """Return what was asked for, None if nothing was; UsageError for what cannot be meant."""
    if minutes is None and steps is None:
        return None
    check_effort(steps, minutes, "recover-")
    if text is None:
        raise UsageError("--recover-minutes: there has to be text to learn from. Give some with --text.")
    return Recovery(minutes, steps, text, TrainingSettings(length=length, seed=seed))


def check_recovery(source: Source, recovery: Recovery, processes: Processes, progress: Progress) -> str:
    """Raise what would be raised once the model is compressed, and return the fingerprint of the text."""
    if processes.count > 1:
        raise UsageError("--recover-minutes: works in one process. Start it without torchrun.")
    kind_of(source.reader.skeleton)
    settings = recovery.settings
    text = read_text(source, [recovery.text], settings.length, settings.seed, progress)
    return str(text.record["fingerprint"])


def compress_and_recover(
    model: str | Path,
    recovery: Recovery,
    identity: dict[str, Any],
    compress: Callable[[Path], object],
    out: Path,
    overwrite: bool,
    resume: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Compress into a folder of its own by `compress`, recover that into `out`; return the manifest.

    `identity` is what has to be the same for a stopped run to go on; `compress` goes on by itself.
    """
    with WorkFolder(out, resume, "stages", "both") as work:
        work.begin({**identity, **recovery.identity()})
        small, kept = work.path / "small", work.path / ".small.run"
        if work.progress is None:
            with WorkFolder(out, unit="steps"):  # what another run has kept there would be in the way later
                pass
            work.save({"done": 0, "total": 2}, {})
        try:
            if not small.exists():
                compress(small)
                work.save({"done": 1, "total": 2}, {})
            progress("compressed; now it is recovered", 0, 0)
            recover(
                small, parent=model, out=out, text=recovery.text, minutes=recovery.minutes, steps=recovery.steps,
                settings=recovery.settings, overwrite=overwrite, resume=True, progress=progress,
            )  # fmt: skip
        except BaseException:
            if not (small.exists() or kept.exists()):
                work.progress = None  # nothing to go on from
            raise
    return read_manifest(out)
