"""Which engine runs a model: ours where the family has a plan, else transformers."""

import logging
from pathlib import Path

from gossamer.checkpoint.read.folder import read_config
from gossamer.checkpoint.read.skeleton import config_from_dict
from gossamer.checkpoint.source import open_model
from gossamer.errors import UnsupportedModelError, UsageError
from gossamer.kernels.dispatch import native_available
from gossamer.runtime.family import plan_of

log = logging.getLogger(__name__)

ENGINES = ("auto", "native", "torch")
DEFAULT_ACTIVATIONS = {"native": "int8", "torch": "float"}


def choose_engine(path: str | Path, engine: str = "auto") -> str:
    """Return "native" or "torch" for a model and what was asked for; the log says why it is torch.

    Raises UsageError for another word, UnsupportedModelError when `native` was asked for and cannot be.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine: expected {', '.join(ENGINES)}, got {engine!r:.40}.")
    if engine == "torch":
        return engine
    folder = Path(path).expanduser()
    if folder.is_dir():
        settings = read_config(folder)
        settings.pop("quantization_config", None)
        config = config_from_dict(settings, f"{folder}/config.json")
    else:
        config = open_model(path).config
    try:
        plan_of(config)
        if not native_available():
            raise UnsupportedModelError("the native kernels were not built.")
    except UnsupportedModelError as error:
        if engine == "native":
            raise
        log.info("%s: running with torch: %s", path, error)
        return "torch"
    return "native"
