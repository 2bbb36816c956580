"""Which weights a rotation changes, and how, so that the model computes what it computed before.

    values    v' = Q v in every head, so W_v' = (I x Q) W_v and W_o' = W_o (I x Q)^T: attention only mixes tokens.
              QuaRot, arXiv 2404.00456, stage 1c; SpinQuant, arXiv 2405.16406, R2.
    residual  h' = R h. What reads the stream through an RMSNorm of scale g becomes W diag(g) R^T, and the norm 1,
              since |R h| = |h|; what adds to it becomes R W; the embeddings E R^T. QuaRot, stage 1a; SpinQuant, R1.

Nothing is left to be done when the model runs. With names of linears as they stand in a block this is a table of
families; a family that is not in it may do something between these linears, so it is refused.

O output features, I input features.
"""

from dataclasses import dataclass

from torch import Tensor

from gossamer.checkpoint.source import Source
from gossamer.errors import UnsupportedModelError, UsageError
from gossamer.rotation.hadamard import Rotation, random_rotation

WHAT = ("values", "residual", "all")

_LLAMA = ("self_attn.v_proj", "self_attn.o_proj")
_BERT = ("attention.self.value", "attention.output.dense")
VALUES = {
    "bert": _BERT,
    "gemma3_text": _LLAMA,
    "gpt2": ("attn.c_attn", "attn.c_proj"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "opt": ("self_attn.v_proj", "self_attn.out_proj"),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "roberta": _BERT,
}
"""model_type -> the linear whose last outputs are values, and the one that reads what attention makes of them."""
RESIDUAL = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose residual stream only linears behind an RMSNorm read, and only linears add to."""
_READERS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
_WRITERS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of one linear or embedding."""

    norm: str | None = None
    """The norm whose scale is multiplied into the inputs."""
    inputs: Rotation | None = None
    outputs: Rotation | None = None
    first_output: int = 0
    """The outputs before it stay: GPT-2's queries and keys."""

    def apply(self, weight_OI: Tensor, scale_I: Tensor | None) -> None:
        """Change a weight in place; `scale_I` is the norm's."""
        if scale_I is not None:
            weight_OI *= scale_I
        if self.inputs is not None:
            self.inputs.turn(weight_OI)
        self.apply_to_outputs(weight_OI.T)

    def apply_to_outputs(self, values_XO: Tensor) -> None:
        """Change in place what has the outputs as its last axis: a bias, or a transposed weight."""
        if self.outputs is not None:
            self.outputs.turn(values_XO[..., self.first_output :])


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """What becomes of a model."""

    values: Rotation | None
    residual: Rotation | None
    turns: dict[str, Turn]
    """Module name -> its turn."""
    norms: tuple[str, ...]
    """Norms whose scales become 1."""
    unties: tuple[str, ...]
    """Parameters that are tensors of their own from now on."""


def plan_rotation(source: Source, what: str, seed: int, untie: bool) -> RotationPlan:
    """Return what a rotation does to each part of a model; reads no weights.

    Raises:
        UnsupportedModelError: of this family the values, or the residual stream, cannot be rotated.
        UsageError: the embeddings are tied to the head and `untie` is false.
    """
    values = _value_rotation(source, seed) if what != "residual" else None
    residual = _residual_rotation(source, seed) if what != "values" else None
    parts = source.architecture
    turns = {}
    value, output = VALUES[source.config.model_type]
    for block in parts.blocks:
        for name in parts.linears(block):
            local = name.removeprefix(f"{block}.")
            reads, writes = residual is not None and local in _READERS, local in _WRITERS
            turns[name] = Turn(
                norm=f"{block}.{_READERS[local]}" if reads else None,
                inputs=values if local == output else residual if reads else None,
                outputs=values if local == value else residual if writes else None,
                first_output=2 * source.config.hidden_size if local == "attn.c_attn" else 0,
            )
    if residual is None:
        return RotationPlan(values, None, turns, (), ())
    inside = tuple(f"{block}." for block in parts.blocks)
    (last_norm,) = (name for name in parts.norms if not name.startswith(inside))
    assert parts.token_embedding is not None and parts.output_head is not None
    turns[parts.token_embedding] = Turn(inputs=residual)
    turns[parts.output_head] = Turn(inputs=residual, norm=last_norm)
    norms = tuple(sorted({turn.norm for turn in turns.values() if turn.norm is not None}))
    unties = tuple(copy for copy, _original in parts.tied)
    if unties and not untie:
        raise UsageError(_what_untying_costs(source, unties))
    return RotationPlan(values, residual, turns, norms, unties)


def _value_rotation(source: Source, seed: int) -> Rotation:
    family, parts = source.config.model_type, source.architecture
    if family not in VALUES:
        raise UnsupportedModelError(
            f"{source.path}: {family}: expected a family in which values reach the output projection unchanged: "
            f"{', '.join(VALUES)}. This one is not known to be rotated safely."
        )
    inputs = parts.matrix(f"{parts.blocks[0]}.{VALUES[family][1]}").shape[1]
    return random_rotation(inputs // source.config.num_attention_heads, seed)


def _residual_rotation(source: Source, seed: int) -> Rotation:
    family, parts = source.config.model_type, source.architecture
    if family not in RESIDUAL:
        raise UnsupportedModelError(
            f"{source.path}: {family}: expected a family whose residual stream is read through RMSNorms and nothing "
            f"else: {', '.join(RESIDUAL)}."
            + (" Its values can be rotated: --what values." if family in VALUES else "")
        )
    if parts.output_head is None or parts.other_linears:
        raise UnsupportedModelError(
            f"{source.path}: {parts.model_class}: expected a language model with its head, since what comes out of "
            "the last block would be rotated too. Its values can be rotated: --what values."
        )
    return random_rotation(source.config.hidden_size, seed)


def _what_untying_costs(source: Source, unties: tuple[str, ...]) -> str:
    count = sum(source.reader.skeleton.get_parameter(name).numel() for name in unties)
    return (
        f"{source.path}: the head is tied to the embeddings, and takes over the scale of the last norm, which they "
        f"must not. Pass --untie to store it apart: {count:,} parameters, {2 * count / 1e6:,.1f} MB more in 16 bits. "
        "Or rotate the values only: --what values."
    )
