"""The plug-in through which transformers loads compressed folders: `quant_method = "gossamer"`.

Before the weights are read, every module that `config.json` declares as packed is replaced by a module with empty
buffers of the declared types and shapes; transformers then fills them like any other tensor.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gossamer.checkpoint.manifest import FORMAT_VERSION
from gossamer.checkpoint.matrix import matrix_of
from gossamer.errors import CheckpointError
from gossamer.kernels.declaration import Meta
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from gossamer.layers.replace import replace_module
from gossamer.layers.step_threads import quiet_steps

QUANT_METHOD = "gossamer"


def quantization_config(modules: dict[str, dict[str, Any]], tied: dict[str, str]) -> dict[str, Any]:
    """The value of `quantization_config` in `config.json`.

    Args:
        modules: packed module name -> its format's `meta()`.
        tied: name of a linear -> name of the packed embedding whose tensors it shares.
    """
    return {
        "quant_method": QUANT_METHOD,
        "format_version": FORMAT_VERSION,
        "modules": modules,
        "tied": tied,
    }


class GossamerConfig(QuantizationConfigMixin):
    """What `config.json` declares about the packed modules."""

    def __init__(
        self,
        modules: dict[str, dict[str, Any]] | None = None,
        tied: dict[str, str] | None = None,
        format_version: int = FORMAT_VERSION,
        **_ignored: object,
    ) -> None:
        if format_version != FORMAT_VERSION:
            raise CheckpointError(
                f"config.json: format version {format_version!r}, but this version of Gossamer reads {FORMAT_VERSION}."
            )
        for name, table, kind in (("modules", modules, dict), ("tied", tied or {}, str)):
            if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
                raise CheckpointError(
                    f"config.json: quantization_config needs a table '{name}' with a {kind.__name__} for each module. "
                    "Restore the file, or compress the model again."
                )
        self.quant_method = QUANT_METHOD
        self.format_version = format_version
        self.modules = modules or {}
        self.tied = tied or {}


class GossamerQuantizer(HfQuantizer):
    """Puts packed modules in the place of dense ones."""

    requires_calibration = False

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, **_kwargs: object
    ) -> PreTrainedModel:
        config = self.quantization_config
        self.packed_names: set[str] = set()
        for declared, meta in config.modules.items():
            name = _name_in(model, declared)
            if name is not None:
                self.packed_names.add(name)
                replace_module(model, name, _packed_module(model.get_submodule(name), declared, meta))
        tied_weights = set()
        for name, embedding in self._tied_modules(model):
            module = model.get_submodule(name)
            tied_weights.add(f"{name}.weight")
            if isinstance(module, nn.Embedding):
                replace_module(model, name, nn.Identity())  # nothing to load; takes its place after loading
            else:
                replace_module(model, name, SparseLinear.tied_to(embedding, bias=module.bias))
        # transformers would tie the dense weights that are no longer there
        gone = tied_weights | {f"{name}.weight" for name in self.packed_names}
        model.all_tied_weights_keys = {
            copy: of for copy, of in model.all_tied_weights_keys.items() if not gone & {copy, of}
        }
        return model

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_kwargs: object
    ) -> PreTrainedModel:
        for name, embedding in self._tied_modules(model):
            if isinstance(model.get_submodule(name), nn.Identity):
                replace_module(model, name, embedding)
        quiet_steps(model)
        return model

    def _tied_modules(self, model: PreTrainedModel) -> Iterator[tuple[str, PackedEmbedding]]:
        """Name of each module that shares a packed embedding, and that embedding."""
        for declared, owner in self.quantization_config.tied.items():
            name, owner_name = _name_in(model, declared), _name_in(model, owner)
            if name is not None and owner_name is not None:
                embedding = model.get_submodule(owner_name)
                if not isinstance(embedding, PackedEmbedding):
                    raise CheckpointError(
                        f"{declared}: declared as tied to {owner}, which is no packed embedding."
                    )
                yield name, embedding

    def get_new_dtype(self, converter: Any, param: object, dtype: torch.dtype | None) -> torch.dtype | None:
        """Packed tensors keep the type that they are stored in, whatever transformers wants for a model's weights."""
        name = converter.target_patterns[0] if converter.target_patterns else ""
        if name.rpartition(".")[0] in self.packed_names:
            return None
        return super().get_new_dtype(converter, param, dtype)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def register() -> None:
    """Tell transformers about the quantizer; once."""
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(QUANT_METHOD)(GossamerConfig)
        register_quantizer(QUANT_METHOD)(GossamerQuantizer)


def _name_in(model: PreTrainedModel, declared: str) -> str | None:
    """The name that a module declared for the full model bears in this one: AutoModel leaves the head away."""
    prefix = model.base_model_prefix + "."
    for name in (declared, declared.removeprefix(prefix), prefix + declared):
        try:
            model.get_submodule(name)
        except AttributeError:
            continue
        return name
    return None


def _packed_module(dense: nn.Module, name: str, meta: Meta) -> nn.Module:
    if isinstance(dense, nn.Embedding):
        return PackedEmbedding.from_meta(meta, like=dense, device="meta")
    linear = matrix_of(name, dense)
    if linear is not None:
        expected, declared = list(linear.shape), meta.get("shape")
        if declared != expected:
            raise CheckpointError(
                f"{name}: declared with shape {declared!r:.60}, but the model needs {expected}."
            )
        return SparseLinear.from_meta(meta, bias=dense.bias is not None, device="meta")
    raise CheckpointError(
        f"{name}: declared as packed, but it is a {type(dense).__name__}. The folder does not fit its architecture."
    )
