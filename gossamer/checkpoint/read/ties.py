"""Which parameters are one tensor: what the weights say, and not what the class or its configuration declares.

A folder may declare its head tied to the embeddings and yet hold a head of its own: fine-tuning tools untie and
forget the configuration. transformers then keeps both, and so does everything here.
"""

from collections.abc import Collection, Mapping

from torch import nn
from transformers import PreTrainedModel

from gossamer.checkpoint.architecture import tied_parameters


def stored_twice(skeleton: PreTrainedModel, stored: Collection[str]) -> list[str]:
    """Return the copies among the declared ties that are stored beside their originals: they may differ."""
    return [
        copy
        for copy, original in tied_parameters(skeleton)
        if _is_stored(copy, skeleton, stored) and _is_stored(original, skeleton, stored)
    ]


def own_weights(
    skeleton: PreTrainedModel, stored: Collection[str], modules: Mapping[str, object]
) -> list[str]:
    """Return the copies among the declared ties that a compressed folder holds as tensors of their own.

    `stored` are the names in the files, `modules` the packed modules.
    """
    held = {*stored, *(f"{module}.weight" for module in modules)}
    return [copy for copy, _original in tied_parameters(skeleton) if _is_stored(copy, skeleton, held)]


def untie(skeleton: PreTrainedModel, copies: Collection[str]) -> None:
    """Give each of `copies` a parameter of its own; a configuration that declares nothing true any more says so."""
    for copy in copies:
        owner, _, leaf = copy.rpartition(".")
        module = skeleton.get_submodule(owner)
        parameter = module._parameters[leaf]
        assert parameter is not None
        module._parameters[leaf] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        skeleton.all_tied_weights_keys.pop(copy, None)
    if copies and not tied_parameters(skeleton):
        for config in (skeleton.config, skeleton.config.get_text_config()):
            config.tie_word_embeddings = False


def _is_stored(name: str, skeleton: PreTrainedModel, stored: Collection[str]) -> bool:
    """True if the parameter is stored, under its name or as the full or the bare model has it."""
    prefix = f"{skeleton.base_model_prefix}."
    return any(each in stored for each in (name, name.removeprefix(prefix), prefix + name))
