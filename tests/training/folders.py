"""Compressed tiny models in every form that `compress` writes."""

from pathlib import Path

import torch

import gossamer
from gossamer.recipe.reader import parse_recipe
from tests.models import save_tiny

ENDS = "  - {layers: [embeddings, head], method: rtn, bits: 8, group_size: 32}\n"
RTN8 = '  - {layers: "*", method: rtn, bits: 8, group_size: 32}\n'
GPTQ4 = '  - {layers: "*", method: gptq, bits: 4, group_size: 32}\n'
HALF = '  - {layers: "*", method: wanda, sparsity: 0.5}\n'
RECIPES = {
    "float": HALF,
    "block": '  - {layers: "*", method: magnitude, pattern: "block 4x4", sparsity: 0.5}\n',
    "row": '  - {layers: "*", method: wanda, pattern: row, sparsity: 0.6}\n',
    "8:16": '  - {layers: "*", method: wanda, pattern: "8:16"}\n',
    "half int4": HALF + GPTQ4 + ENDS,
    "half asymmetric": HALF + '  - {layers: "*", method: rtn, bits: 4, group_size: 32, symmetric: false}\n',
    "2:4 int4": '  - {layers: "*", method: wanda, pattern: "2:4"}\n' + GPTQ4,
    "4:8 int8": '  - {layers: "*", method: wanda, pattern: "4:8"}\n' + RTN8,
    "int3": '  - {layers: "*", method: gptq, bits: 3, group_size: 32}\n' + ENDS,
    "int4 asymmetric": '  - {layers: "*", method: rtn, bits: 4, group_size: 32, symmetric: false}\n',
    "few zeros int8": '  - {layers: "*", method: magnitude, sparsity: 0.03}\n' + RTN8,
    "low rank": '  - {layers: "*", method: oats, sparsity: 0.5, rank: 4}\n',
    "factors": '  - {layers: "*", method: svd, rank: 8}\n',
    "low rank int4": HALF + GPTQ4 + '  - {layers: "*", method: eora, rank: 4}\n',
    "some": '  - {layers: "*.mlp.*", method: wanda, sparsity: 0.5}\n',
}


def compress_tiny(form: str, place: Path, text: Path, kind: str = "llama") -> tuple[Path, Path]:
    """Write a tiny dense model in bfloat16, and what a recipe makes of it; return both folders."""
    parent, small = place / f"tiny-{kind}", place / "small"
    save_tiny(kind, parent, dtype=torch.bfloat16)
    recipe = "calibration: {samples: 4, length: 32}\nsteps:\n" + RECIPES[form]
    gossamer.compress(parent, parse_recipe(recipe), out=small, text=str(text))
    return parent, small
