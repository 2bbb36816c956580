"""Llama (and what is stored as Llama: SmolLM, TinyLlama, Yi, ...)."""

from transformers import PretrainedConfig

from gossamer.runtime.families.decoder import decoder_plan
from gossamer.runtime.plan import Plan, rotary_of


def plan(config: PretrainedConfig) -> Plan:
    return decoder_plan(config, {"rotary": rotary_of(config)}, activation=config.hidden_act)
