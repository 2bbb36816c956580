"""What each metadata key of a GGUF file means to us: honoured, without effect, or a reason to refuse the file.

Nothing is passed over: a key under `tokenizer.`, `adapter.`, `split.` or the architecture's own name that stands in
no table here makes the file unreadable, with the key's name. Source of the meanings: llama.cpp, src/llama-arch.cpp
(names), src/llama-model.cpp and src/models/ (what an architecture reads), src/llama-vocab.cpp (tokenizer).
"""

from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from gossamer.checkpoint.read.gguf_header import GGUFFile
from gossamer.checkpoint.read.gguf_vocabulary import IDS
from gossamer.errors import UnsupportedModelError

TOKENIZER = {
    "tokenizer.chat_template",
    *(f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges")),
    *(f"tokenizer.ggml.{name}" for name in ("add_bos_token", "add_eos_token", "add_space_prefix")),
    *(f"tokenizer.ggml.{name}_token_id" for name in IDS.values()),
}
"""Honoured in gguf_vocabulary.py and gguf_tokenizer.py; "scores" by SentencePiece alone, "merges" by byte-level BPE."""
SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""Honoured as defaults: key -> field of generation_config."""
_DECODER = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor",
}  # fmt: skip
_GEMMA = {
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa", "rope.dimension_count_swa",
    "attention.key_length_swa", "attention.value_length_swa", "final_logit_softcapping",
}  # fmt: skip
_GPT2 = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.layer_norm_epsilon",
}  # fmt: skip
ARCHITECTURE = {
    "llama": _DECODER, "qwen2": _DECODER, "qwen3": _DECODER, "gemma3": _DECODER | _GEMMA, "gpt2": _GPT2,
}  # fmt: skip
"""Keys after `ARCHITECTURE.` that are honoured in gguf_config.py."""
NO_EFFECT = {
    "general.*": "names, licence, quantization version, file type",
    "tokenizer.chat_template.*": "templates for tools and documents, which are not offered to the model",
    "tokenizer.chat_templates": "names of the former",
    "tokenizer.huggingface.json": "llama.cpp does not read it either",
    "tokenizer.rwkv.world": "llama.cpp reads it for RWKV only",
    "tokenizer.ggml.token_type_count": "segments of BERT",
    "tokenizer.ggml.add_sep_token": "for pairs of texts that are to be ranked",
    "tokenizer.ggml.remove_extra_whitespaces": "llama.cpp reads it for T5's tokenizer only",
    "tokenizer.ggml.precompiled_charsmap": "llama.cpp reads it for T5's tokenizer only",
    "tokenizer.ggml.normalizer.*": "of BERT's tokenizer",
    "tokenizer.ggml.prefix_token_id": "old name of fim_pre; a prompt that is to be filled in is the caller's",
    "tokenizer.ggml.suffix_token_id": "old name of fim_suf",
    "tokenizer.ggml.middle_token_id": "old name of fim_mid",
    "split.*": "checked in gguf_split.py",
    "{}.vocab_size": "the rows of the embedding say it",
    "{}.pooling_type": "of embeddings, not of logits",
    "{}.tensor_data_layout": "llama.cpp does not read it either",
    "{}.rope.scaling.finetuned": "a remark, for these architectures",
}
"""Key (`{}`: the architecture, `*`: anything) -> why it changes no id, position or stop."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "general.type": ("model",),
    "{}.attention.causal": (True,),
    "{}.attention.layer_norm_epsilon": (0,),
    "{}.attention.layer_norm_rms_epsilon": (0,),
    "{}.attention.sliding_window": (0,),
    "{}.attention.max_alibi_bias": (0,),
    "{}.attention.clamp_kqv": (0,),
    "{}.attention.scale": (0,),
    "{}.attention.output_scale": (0, 1),
    "{}.attention.value_scale": (0, 1),
    "{}.attention.shared_kv_layers": (0,),
    "{}.attention.rope_pattern": (1,),
    "{}.attn_logit_softcapping": (0,),
    "{}.final_logit_softcapping": (0,),
    "{}.router_logit_softcapping": (0,),
    "{}.logit_scale": (0, 1),
    "{}.residual_scale": (0, 1),
    "{}.embedding_scale": (0, 1),
    "{}.use_parallel_residual": (False,),
    "{}.expert_*": (0,),
    "{}.leading_dense_block_count": (0,),
    "{}.nextn_predict_layers": (0,),
    "{}.rope.dimension_sections": (0,),
    "{}.rope.scaling.alpha": (0,),
    "{}.rope.scaling.yarn_log_multiplier": (0,),
    "{}.rope.scaling.yarn_ext_factor": (-1, 1),
    "{}.rope.scaling.yarn_attn_factor": (1,),
    "{}.rope.scaling.yarn_beta_fast": (32,),
    "{}.rope.scaling.yarn_beta_slow": (1,),
}
"""Key -> the values at which nothing differs from the architecture as it is read; at others the file is refused."""


def check_keys(file: GGUFFile, architecture: str) -> None:
    """Raise UnsupportedModelError for the first key that changes what the model is and is not honoured."""
    honoured = TOKENIZER | SAMPLING.keys() | {f"{architecture}.{name}" for name in ARCHITECTURE[architecture]}
    neutral = {key.format(architecture): values for key, values in NEUTRAL.items()}
    no_effect = [key.format(architecture) for key in NO_EFFECT]
    for key, value in file.metadata.items():
        if key in honoured or not key.startswith(
            ("general.", "tokenizer.", "adapter.", "split.", f"{architecture}.")
        ):
            continue
        allowed = next((values for known, values in neutral.items() if fnmatchcase(key, known)), None)
        if allowed is not None:
            if not _is_among(value, allowed):
                raise UnsupportedModelError(
                    f"{file.path}, key {key!r:.100}: expected {' or '.join(map(repr, allowed))}, got {value!r:.60}. "
                    f"This variant of {architecture!r} is not handled."
                )
        elif key.startswith("general.tensor_extra.") or not any(
            fnmatchcase(key, known) for known in no_effect
        ):
            raise UnsupportedModelError(
                f"{file.path}, key {key!r:.100}: expected only keys whose meaning for {architecture!r} is known, got "
                f"this one (value {value!r:.60}), which might change what the model says. "
                "Use the model's safetensors folder."
            )


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    values = np.unique(value).tolist() if isinstance(value, np.ndarray | list) else [value]
    return all(each in allowed for each in values)
