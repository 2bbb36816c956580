"""A recipe of one's own: layers that matter more keep more weights, and everything is rounded to 4 bits.

python examples/custom_recipe.py MODEL CALIBRATION_TEXT OUT_FOLDER
"""

import sys

import gossamer
from gossamer.recipe.reader import parse_recipe

RECIPE = parse_recipe("""
description: MLPs pruned harder than attention, the last projection of a block least.
calibration: {samples: 16, length: 128}
steps:
  - layers: "*"
    method: sparsegpt
    sparsity: {"*.down_proj": 0.3, "*.mlp.*": 0.6, "*": 0.5}
  - {layers: "*", method: gptq, bits: 4, group_size: 64}
  - {layers: [embeddings, head], method: rtn, bits: 8}
""")


def main(model: str, calibration: str, out: str) -> None:
    result = gossamer.compress(model, RECIPE, out=out, text=calibration)
    for layer in result.manifest["layers"]:
        sys.stdout.write(
            f"{layer['name']:40}{layer['sparsity']:7.1%}  {layer['format']:8}"
            f"{layer['bytes']:>10,} bytes  output error {layer['relative_error']:.1%}\n"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
