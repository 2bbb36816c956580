"""Tiny random models, inputs and tokenizers of every architecture that Gossamer promises to handle.

Everything is seeded and made offline. `tiny_model("llama")` is a LlamaForCausalLM with two blocks;
`save_tiny` writes it with its tokenizer as a Hugging Face folder.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

VOCABULARY_SIZE = 260
"""256 bytes, then <pad> 256, <bos> 257, <eos> 258, <unk> 259."""
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
_IDS: dict[str, Any] = {
    "vocab_size": VOCABULARY_SIZE,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": 258,
}
_DECODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    **_IDS,
}
_ENCODER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 258,
    **_IDS,
}
_TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**_DECODER, "tie_word_embeddings": False}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**_DECODER, "sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_DECODER, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_DECODER, "query_pre_attn_scalar": 16}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "tie_word_embeddings": True, **_IDS},
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            **_IDS,
        },
    ),
    "bert": ("BertForMaskedLM", "BertConfig", _ENCODER),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**_ENCODER, "max_position_embeddings": 516}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 256,
            **_IDS,
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 64,
            "decoder_start_token_id": 257,
            "begin_suppress_tokens": [258],
            **_IDS,
        },
    ),
}
KINDS = tuple(_TINY)
CAUSAL_KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "opt")


def tiny_config(kind: str, **changes: Any) -> transformers.PretrainedConfig:
    """Return the configuration of the tiny model, with `changes` applied."""
    _, config_name, settings = _TINY[kind]
    return getattr(transformers, config_name)(**{**settings, **changes})


def tiny_model(kind: str, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """Return a random float32 model in eval mode; weights are large enough that outputs are not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, _TINY[kind][0])(tiny_config(kind, **changes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(4.0)
                elif name.endswith("weight"):  # norms: away from their trivial initial value
                    parameter.add_(0.1 * torch.randn_like(parameter))
                else:
                    parameter.normal_(0.0, 0.05)
    return model.eval()


_MIXTURE: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4, "output_router_logits": False}
_EXPERTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_DECODER, **_MIXTURE}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_DECODER, **_MIXTURE, "num_experts": 4, "moe_intermediate_size": 48, "tie_word_embeddings": False},
    ),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_DECODER, **_MIXTURE}),
    "llama4": (
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **_DECODER,
            **_MIXTURE,
            "intermediate_size_mlp": 96,
            "moe_layers": [0, 1],
            "tie_word_embeddings": False,
        },
    ),
}
EXPERT_KINDS = tuple(_EXPERTS)
"""Models whose experts transformers keeps in one parameter for each layer; the last two as [E, I, O]."""


def tiny_experts(kind: str, **changes: Any) -> transformers.PreTrainedModel:
    """Return a random model with four experts in each of its two blocks, as `tiny_model` does."""
    name, config_name, settings = _EXPERTS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config_name)(**{**settings, **changes}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.1)
    return model.eval()


def tiny_inputs(kind: str, batch_size: int = 2, length: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Return seeded keyword arguments for `tiny_model(kind)`."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(0, 256, (batch_size, length), generator=generator)
    if kind == "t5":
        return {"input_ids": ids_BT, "decoder_input_ids": ids_BT[:, : length // 2]}
    if kind == "whisper":
        features_BMF = torch.randn(batch_size, 8, 32, generator=generator)
        return {"input_features": features_BMF, "decoder_input_ids": ids_BT[:, : length // 2]}
    return {"input_ids": ids_BT}


def tiny_tokenizer(template: str = "$A") -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: one token a byte, ids as in `VOCABULARY_SIZE`.

    `template` says what it puts around a text: "<bos> $A" as Llama and Gemma do, by default nothing.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS.values()]
    )
    added = [(token, backend.token_to_id(token)) for token in SPECIAL_TOKENS.values() if token in template]
    if added:
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=added)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=256, clean_up_tokenization_spaces=False, **SPECIAL_TOKENS
    )


def save_tiny(
    kind: str,
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    **changes: Any,
) -> transformers.PreTrainedModel:
    """Write the tiny model and its tokenizer to `folder`; return the model (in `dtype`)."""
    model = tiny_model(kind, seed=seed, **changes).to(dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(folder)
    return model
