"""What tests of whole runs share: a short run, and the outputs that its result should give."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.pytorch_utils import Conv1D

import gossamer
from gossamer.recipe.reader import parse_recipe
from tests.conftest import Case
from tests.models import CAUSAL_KINDS, tiny_inputs, tiny_model

AUTO_CLASSES = {
    **dict.fromkeys(CAUSAL_KINDS, "AutoModelForCausalLM"),
    "bert": "AutoModelForMaskedLM",
    "roberta": "AutoModelForMaskedLM",
    "t5": "AutoModelForSeq2SeqLM",
    "whisper": "AutoModelForSpeechSeq2Seq",
}
MAGNITUDE = "steps: [{{layers: '*', method: magnitude, {}}}]"


def small_run(parent: Path, recipe: str, out: Path, **settings: Any) -> dict[str, Any]:
    return gossamer.compress(parent, parse_recipe(recipe), out=out, **settings).manifest


def dense_twin(case: Case) -> transformers.PreTrainedModel:
    """The parent, with each packed weight put where the dense one was: plain torch, no code of the loader."""
    model = tiny_model(case.kind)
    with torch.no_grad():
        for name, packed in case.packed().items():
            module = model.get_submodule(name)
            weight_OI = packed.unpack()
            module.weight.copy_(weight_OI.T if isinstance(module, Conv1D) else weight_OI)
    return model


def outputs(model: transformers.PreTrainedModel, kind: str) -> Tensor:
    with torch.inference_mode():
        result = model(**tiny_inputs(kind, length=24, seed=5))
    return result.logits if hasattr(result, "logits") else result[0]


def file_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
