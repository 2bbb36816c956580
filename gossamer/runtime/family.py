"""Which model families the native engine knows."""

from collections.abc import Callable

from transformers import PretrainedConfig

from gossamer.errors import UnsupportedModelError
from gossamer.runtime.families import gemma, gpt2, llama, mistral, qwen
from gossamer.runtime.plan import Plan

FAMILIES: dict[str, Callable[[PretrainedConfig], Plan]] = {
    "gemma3_text": gemma.plan,
    "gpt2": gpt2.plan,
    "llama": llama.plan,
    "mistral": mistral.plan,
    "qwen2": qwen.plan2,
    "qwen3": qwen.plan3,
}
"""model_type -> what makes the plan."""


def plan_of(config: PretrainedConfig) -> Plan:
    """Return the plan of a model.

    Raises UnsupportedModelError when the family has none, or not for this configuration.
    """
    make = FAMILIES.get(config.model_type)
    if make is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(
            f"{config.model_type}: the native engine knows {known}. Use --engine torch."
        )
    return make(config)
