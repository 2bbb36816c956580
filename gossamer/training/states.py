"""Where the states of a run are kept: in the work folder of the first process, which gives them to the others."""

from typing import Any

from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.distributed.processes import Processes


class States:
    """The states that were kept, the same for all processes."""

    def __init__(self, folder: WorkFolder | None, processes: Processes) -> None:
        """`folder`: None in all processes but the first."""
        self._folder, self.processes = folder, processes

    def save(self, about: dict[str, Any], values: Any) -> None:
        """Keep a state, as `WorkFolder.save` does."""
        if self._folder is not None:
            self._folder.save(about, values)

    def go(self) -> None:
        """From now on the folder is this run's own."""
        if self._folder is not None:
            self._folder.go()

    def progress(self) -> dict[str, Any] | None:
        """Return what was said of the last state; None if there is none."""
        return self.processes.agreed(None if self._folder is None else self._folder.progress)

    def values(self) -> Any:
        """Return the tensors of the last state."""
        return self.processes.handed_out(None if self._folder is None else self._folder.values())
