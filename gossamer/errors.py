"""Every error that Gossamer raises for a user's mistake or a broken input.

    GossamerError
      UsageError          wrong arguments: out directory exists, unknown option value, no text given
      RecipeError         a recipe that cannot be meant: unknown key, sparsity 1.5, N > M
      CheckpointError     a model that cannot be read: missing, truncated, corrupted, refused
        UnsupportedModelError   readable, but of an architecture or tensor type that is not handled
      FormatError         packed tensors that contradict their declaration
      DataError           text that is missing, empty, too short or undecodable
      CalibrationError    statistics that cannot be used: NaN inputs, no samples
      RunError            the run itself could not finish
        DiskError               the disk is full, or fails
        ProcessError            another process of the run has ended

Messages say where, what was expected, what was got and what to do. The command line prints them without a
traceback and exits with 2. `assert` is kept for our own invariants.
"""


class GossamerError(Exception):
    """Base of all errors that are explained to the user instead of traced back."""


class UsageError(GossamerError):
    """The call itself is wrong."""


class RecipeError(GossamerError):
    """The recipe cannot be carried out as written."""


class CheckpointError(GossamerError):
    """The model cannot be read."""


class UnsupportedModelError(CheckpointError):
    """The model can be read, but its architecture or tensor type is not handled."""


class FormatError(GossamerError):
    """Packed tensors contradict their declared format."""


class DataError(GossamerError):
    """The text cannot be used."""


class CalibrationError(GossamerError):
    """Calibration statistics cannot be used."""


class RunError(GossamerError):
    """The run could not finish."""


class DiskError(RunError):
    """The disk is full, or fails."""


class ProcessError(RunError):
    """Another process of the run has ended, which this one needs."""
