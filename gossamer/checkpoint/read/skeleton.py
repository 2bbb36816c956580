"""A model without weights: the transformers class that a config names, built on the meta device."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from gossamer.checkpoint.read.quiet import quiet
from gossamer.errors import CheckpointError, UnsupportedModelError

_DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)


def config_from_dict(settings: dict[str, Any], where: str) -> PretrainedConfig:
    """Return the config object for the contents of a config.json; only built-in classes are used."""
    model_type = settings["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        code = (
            " The folder brings its own code (auto_map), which Gossamer never runs."
            if "auto_map" in settings
            else ""
        )
        raise UnsupportedModelError(
            f"{where}: expected a model_type that transformers {transformers.__version__} knows, got "
            f"{model_type!r:.60}."
            f"{code} Update transformers, or convert the model to a known architecture."
        )
    plain = {key: value for key, value in settings.items() if key not in ("auto_map", "transformers_weights")}
    try:
        with quiet():
            return transformers.CONFIG_MAPPING[model_type].from_dict(plain)
    except Exception as error:  # configs validate themselves in many ways
        raise CheckpointError(
            f"{where}: expected a valid {model_type} configuration, got {type(error).__name__}: "
            f"{error!s:.300}. "
            "Restore config.json."
        ) from error


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class named by `config.architectures`; else the causal LM or bare model of its type."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
        if (
            isinstance(found, type)
            and issubclass(found, PreTrainedModel)
            and getattr(found, "config_class", None) is type(config)
        ):
            return found
    for mapping in (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise UnsupportedModelError(
        f"{config.model_type}: expected an architecture that transformers {transformers.__version__} has a "
        "language "
        f"model for, got architectures = {config.architectures!r:.120}."
    )


def build_skeleton(config: PretrainedConfig, num_tensors: int, where: str) -> PreTrainedModel:
    """Return the model on the meta device, in eval mode.

    Args:
        config: what to build. num_tensors: how many tensors the checkpoint holds; a config that claims more
        layers is refused at once. where: what to name in errors.
    """
    depth = max((v for key in _DEPTHS if isinstance(v := getattr(config, key, 0), int)), default=0)
    if depth > num_tensors:
        raise CheckpointError(
            f"{where}: expected at least one tensor for each layer, got {depth} layers but {num_tensors} "
            "tensors. "
            "The configuration does not belong to these weights."
        )
    try:
        kind = model_class(config)
        with quiet():
            return _built(kind, config)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a contradictory config makes a constructor do
        raise CheckpointError(
            f"{where}: expected a configuration from which {config.model_type} can be built, "
            f"got {type(error).__name__}: {error!s:.300}. Restore the configuration."
        ) from error


def _built(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    try:
        with sketched(kind), torch.device("meta"):
            return kind(config).eval().to("meta")
    except Exception:
        if kind in _MIXING:
            raise
        _MIXING.add(kind)
        return _built(kind, config)


_MIXING: set[type[PreTrainedModel]] = set()
"""Classes that could not be built inside `sketched`: they compute with tables and sketches together."""


@contextmanager
def sketched(kind: type[PreTrainedModel]) -> Iterator[None]:
    """While open, building such a model on the meta device imports little: no first values are drawn for it, and tables
    that begin with `torch.arange` are computed on the CPU.

    What torch imports to sketch random numbers and ranges (sympy) would be a tenth of the time in which a small model
    is opened. To be entered before `torch.device("meta")`; other devices see no difference. Nothing is changed for a
    class that `build_skeleton` found to need more.
    """
    if kind in _MIXING:
        yield
        return
    drawing = [name for name in dir(init) if name.endswith("_") and not name.startswith("_")]
    with ExitStack() as stack:
        for name in drawing:
            stack.enter_context(mock.patch.object(init, name, _drawn_where_real(getattr(init, name))))
        stack.enter_context(_TablesOnCPU())
        yield


def _drawn_where_real(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(draw)
    def drawn(tensor: Tensor, *args: Any, **settings: Any) -> Tensor:
        return tensor if tensor.is_meta else draw(tensor, *args, **settings)

    return drawn


class _TablesOnCPU(TorchFunctionMode):
    """While open, `torch.arange` on the meta device is had on the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        settings = dict(kwargs or {})
        if func is torch.arange and str(settings.get("device")) == "meta":
            settings["device"] = "cpu"
        return func(*args, **settings)


@torch.no_grad()
def fill_buffers(model: PreTrainedModel) -> None:
    """Give buffers on the meta device (rotary frequencies, position ids) the values their classes compute.

    To be called while the parameters are on the meta device: the classes initialise both.
    """
    for module in model.modules():
        absent = [name for name, b in module.named_buffers(recurse=False) if b.device.type == "meta"]
        for name in absent:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        if absent:
            model._init_weights(module)


def set_parameter(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace the parameter called `name`, whatever its device was."""
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner)._parameters[leaf] = nn.Parameter(value)
