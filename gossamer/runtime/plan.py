"""What a model does for each token, as a flat list of ops over named buffers: written by `families`, run by `engine`.

The names of weights are those of transformers' modules (`model.layers.0.self_attn.q_proj`) and parameters
(`model.norm.weight`). The buffer "hidden" is always there; `csrc/engine/plan.h` has the same ops with numbers.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gossamer.errors import UnsupportedModelError

HIDDEN = "hidden"
Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""transformers' name of an activation function -> ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm:
    """x / sqrt(mean(x^2) + epsilon) * (weight + offset), after taking away the mean and plus a bias when `centred`."""

    weight: str
    epsilon: float
    bias: str | None = None
    centred: bool = False
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Embed:
    """hidden = scale * table[token] + positions[position]."""

    table: str
    scale: float = 1.0
    positions: str | None = None


@dataclass(frozen=True, slots=True)
class Linear:
    """A module with a weight, and a bias if the checkpoint has one; where its outputs go."""

    module: str
    output: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Linears:
    """Products of one input with several weights, and what follows at once.

    `store`: outputs stay in their buffers. `add`: target += the product. `gate`: target = activation(first) * second,
    or activation(first) when there is but one.
    """

    input: str
    linears: tuple[Linear, ...]
    norm: Norm | None = None
    then: Literal["store", "add", "gate"] = "store"
    activation: Activation = "silu"
    target: str = HIDDEN


@dataclass(frozen=True, kw_only=True, slots=True)
class AddNorm:
    """target += norm(input)."""

    input: str
    norm: Norm
    target: str = HIDDEN


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """Norms of query and key heads, rotation, and causal attention over the cache.

    query, key, value: (buffer, offset of head 0). window: positions that a token sees, itself included; 0: all.
    """

    query: tuple[str, int]
    key: tuple[str, int]
    value: tuple[str, int]
    output: str
    heads: int
    key_heads: int
    head_dim: int
    layer: int
    scale: float
    window: int = 0
    rotary: str | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Logits of the rows that are wanted."""

    module: str
    norm: Norm | None
    tied_to: str | None = None
    """Module whose weight is the head's when the checkpoint has none of its own."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """Angles = position * inverse_frequency; `scaling` multiplies cosine and sine."""

    inverse_frequency: tuple[float, ...]
    scaling: float


Op = Embed | Linears | AddNorm | Attention | Head


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A model, ready to be bound to its weights."""

    hidden_size: int
    vocabulary_size: int
    max_positions: int
    buffers: dict[str, int]
    """Name -> floats for each token."""
    rotaries: dict[str, Rotary]
    ops: tuple[Op, ...]
    transposed: bool = False
    """Dense weights of linears are stored [inputs, outputs]."""


def rotary_of(config: PretrainedConfig, layer_type: str | None = None) -> Rotary:
    """Return the angles of a configuration, by transformers' own rules.

    Raises UnsupportedModelError where they change with the length of the text.
    """
    settings = config.rope_parameters if layer_type is None else config.rope_parameters[layer_type]
    kind = settings["rope_type"]
    if kind in ("dynamic", "longrope") or kind not in ("default", *ROPE_INIT_FUNCTIONS):
        raise UnsupportedModelError(f"rotary embeddings of type {kind!r:.40}: the native engine has none.")
    if kind == "default":
        size = head_dim_of(config)
        exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
        return Rotary(tuple((1.0 / settings["rope_theta"] ** exponents).tolist()), 1.0)
    keywords = {} if layer_type is None else {"layer_type": layer_type}
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **keywords)
    return Rotary(tuple(frequencies.tolist()), float(scaling))


LARGEST_HEAD = 256
"""Dimensions; as csrc/kernels/table.h has it."""


def head_dim_of(config: PretrainedConfig) -> int:
    """Return the size of a head; UnsupportedModelError unless the engine takes such heads."""
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if size < 1 or size % 16 or size > LARGEST_HEAD:
        raise UnsupportedModelError(
            f"{config.model_type} with heads of {size}: the native engine takes multiples of 16 up to "
            f"{LARGEST_HEAD}. Use --engine torch."
        )
    return size


def activation_of(name: str) -> Activation:
    """Return our name of an activation function; UnsupportedModelError if the engine has none such."""
    if name not in ACTIVATIONS:
        raise UnsupportedModelError(f"activation {name!r:.40}: the native engine has none such.")
    return ACTIVATIONS[name]
