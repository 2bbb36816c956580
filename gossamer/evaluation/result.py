"""What `evaluate` returns."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["causal", "masked", "embeddings"]
"""Language models that continue a text, those that fill gaps, and encoders without a head."""

CONDITIONS = (
    "model", "parent", "engine", "activations", "size_bytes", "parent_size_bytes", "parent_bf16_bytes",
)  # fmt: skip
FIGURES: dict[Kind, tuple[str, ...]] = {
    "causal": (
        "perplexity", "bits_per_byte", "perplexity_signature", "tokens", "parent_perplexity", "parent_bits_per_byte",
        "kl_mean", "top1_agreement", "perplexity_ratio", "perplexity_ratio_ci95",
    ),
    "masked": (
        "pseudo_perplexity", "pseudo_perplexity_signature", "tokens", "parent_pseudo_perplexity",
    ),
    "embeddings": (
        "sentences", "embedding_cosine_mean", "embedding_cosine_min", "embedding_cosine_p05",
    ),
}  # fmt: skip
"""The figures of each kind, in the order in which JSON has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The quality of a model. None: not measured, as it belongs to another kind of model or needs a parent."""

    kind: Kind
    model: str
    parent: str | None
    """The paths as given."""
    engine: str
    """native or torch; the parent always runs in torch."""
    activations: str
    """float or int8."""
    size_bytes: int
    parent_size_bytes: int | None
    """On disk: weights, configuration, tokenizer."""
    parent_bf16_bytes: int | None
    """2 bytes for each parameter, tied ones once."""

    perplexity: float | None = None
    bits_per_byte: float | None = None
    """Cross entropy in bits over the bytes of UTF-8 that the scored tokens stand for."""
    perplexity_signature: str | None = None
    tokens: int | None = None
    """Predictions that count."""
    parent_perplexity: float | None = None
    parent_bits_per_byte: float | None = None
    kl_mean: float | None = None
    """Mean over the tokens of KL(parent || model), nats."""
    top1_agreement: float | None = None
    """Share of the tokens for which both rank the same token first, 0 to 1."""
    perplexity_ratio: float | None = None
    """Perplexity / parent's perplexity."""
    perplexity_ratio_ci95: tuple[float, float] | None = None
    """Its 95 % interval; None for a single window."""

    pseudo_perplexity: float | None = None
    pseudo_perplexity_signature: str | None = None
    parent_pseudo_perplexity: float | None = None

    sentences: int | None = None
    embedding_cosine_mean: float | None = None
    embedding_cosine_min: float | None = None
    embedding_cosine_p05: float | None = None
    """Cosine between model and parent of the sentences' embeddings: mean, least, and what 5 % lie below."""

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored and printed: the conditions, and the figures of this kind of model."""
        values = asdict(self)
        return {name: values[name] for name in (*CONDITIONS, *FIGURES[self.kind])}
