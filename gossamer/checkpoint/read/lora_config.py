"""adapter_config.json of PEFT: what is honoured of it, and what is refused.

A key that is not known here, with a value that says something, is refused: whether it changes what an adapter means
cannot be told.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from gossamer.errors import CheckpointError, UnsupportedModelError

HONOURED = (
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias",
    "modules_to_save", "target_modules", "init_lora_weights", "base_model_name_or_path",
)  # fmt: skip
WITHOUT_EFFECT = (
    "task_type", "auto_mapping", "revision", "inference_mode", "lora_dropout", "exclude_modules", "layers_to_transform",
    "layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying", "peft_version",
)  # fmt: skip
"""On what the tensors mean: about training, loading, or which modules have an adapter, as their names tell."""
HARMLESS_BEGINNINGS = ("true", "false", "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base model as it is."""
REFUSED = {
    "use_dora": "DoRA: its magnitudes are no sum",
    "lora_bias": "biases of adapters",
    "use_qalora": "QA-LoRA",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "single trained tokens",
    "target_parameters": "adapters of parameters that are no linear, such as fused experts",
    "alora_invocation_tokens": "an adapter that works behind certain tokens only",
}
BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter says of itself."""

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    bias: str
    modules_to_save: tuple[str, ...]
    target_modules: tuple[str, ...]
    """Empty where it is a pattern, or all linears."""
    base_model: str | None

    @classmethod
    def of(cls, content: Mapping[str, Any], where: str) -> Self:
        """Read a configuration; UnsupportedModelError for what is not honoured, CheckpointError for nonsense."""
        _refuse(content, where)
        targets = content.get("target_modules")
        try:
            config = cls(
                r=_rank(content.get("r", 8)),
                lora_alpha=_number(content.get("lora_alpha", 8)),
                use_rslora=bool(content.get("use_rslora", False)),
                rank_pattern={_regex(key): _rank(each) for key, each in _object(content, "rank_pattern")},
                alpha_pattern={_regex(key): _number(each) for key, each in _object(content, "alpha_pattern")},
                bias=str(content.get("bias", "none")),
                modules_to_save=_names(content.get("modules_to_save")),
                target_modules=() if isinstance(targets, str) else _names(targets),
                base_model=content.get("base_model_name_or_path"),
            )
        except (TypeError, ValueError, re.error) as error:
            raise CheckpointError(
                f"{where}: expected what PEFT writes, got something else ({error})."
            ) from None
        if config.bias not in BIASES:
            raise UnsupportedModelError(
                f"{where}: bias: expected one of {', '.join(BIASES)}, got {config.bias:.60}."
            )
        return config

    def rank(self, module: str) -> int:
        """Return the rank of a linear's adapter."""
        return int(self._of(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """Return what a linear's product is multiplied by."""
        rank = self.rank(module)
        return self._of(self.alpha_pattern, module, self.lora_alpha) / (
            math.sqrt(rank) if self.use_rslora else rank
        )

    def not_found(self, pairs: Collection[str], replaced: Collection[str]) -> list[str]:
        """Say what the configuration speaks of and the file does not have."""
        notes = []
        lacking = [each for each in self.target_modules if not any(belongs(name, each) for name in pairs)]
        if lacking:
            notes.append(f"the adapter has no weights for {', '.join(lacking)} of its target_modules")
        modules = {name.rpartition(".")[0] for name in replaced}
        for each in self.modules_to_save:
            if not any(belongs(name, each, inside=True) for name in modules):
                notes.append(f"the adapter has no weights for {each} of its modules_to_save")
        if self.bias != "none" and not any(name.endswith(".bias") for name in replaced):
            notes.append(f"bias is {self.bias}, but the adapter has no biases")
        return notes

    @staticmethod
    def _of(patterns: Mapping[str, float], module: str, default: float) -> float:
        found = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
        return next(found, default)


def belongs(module: str, name: str, *, inside: bool = False) -> bool:
    """True if a module is called so, with or without the names before it; or with `inside`, lies in one that is."""
    end = r"($|\.)" if inside else "$"
    return re.search(rf"(^|\.){re.escape(name)}{end}", module) is not None


def _refuse(content: Mapping[str, Any], where: str) -> None:
    kind = content.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"{where}: expected the peft_type LORA, got {kind!r:.60}. Only LoRA adds up."
        )
    for key, value in content.items():
        if key in HONOURED or key in WITHOUT_EFFECT or not value:
            continue
        what = REFUSED.get(key, "a setting that is not known here")
        raise UnsupportedModelError(
            f"{where}: {key} is {value!r:.80} ({what}), which is not honoured. Merge the adapter into its dense model "
            "with PEFT, and compress that."
        )
    begun = content.get("init_lora_weights", True)
    if not str(begun).lower().startswith(HARMLESS_BEGINNINGS):
        raise UnsupportedModelError(
            f"{where}: init_lora_weights is {begun!r:.60}, which changes the base model before training: the "
            "adapter fits no other one. Convert it with PEFT (path_initial_model_for_weight_conversion)."
        )


def _rank(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"a rank of {value!r:.60}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r:.60} for a number")
    return float(value)


def _regex(value: str) -> str:
    re.compile(value)
    return value


def _object(content: Mapping[str, Any], key: str) -> list[tuple[str, object]]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise TypeError(f"{key} is {value!r:.60}")
    return list(value.items())


def _names(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{value!r:.60} for a list of names")
    return tuple(value)
