"""Compress one model by several shipped recipes and put quality beside size.

python examples/compress_and_compare.py MODEL CALIBRATION_TEXT EVALUATION_TEXT OUT_FOLDER [RECIPE ...]
"""

import sys
from pathlib import Path

import gossamer


def main(model: str, calibration: str, evaluation: str, out: str, *recipes: str) -> None:
    Path(out).mkdir(exist_ok=True)
    sys.stdout.write(f"{'recipe':16}{'MB':>10}{'perplexity':>12}{'KL':>9}{'same first choice':>19}\n")
    for recipe in recipes or ("int8", "int4", "sparse50-int4"):
        folder = Path(out) / recipe
        gossamer.compress(model, recipe, out=folder, text=calibration, overwrite=True)
        figures = gossamer.evaluate(folder, against=model, text=evaluation, num_windows=16)
        sys.stdout.write(
            f"{recipe:16}{figures.size_bytes / 1e6:10.2f}{figures.perplexity:12.2f}"
            f"{figures.kl_mean:9.3f}{figures.top1_agreement:19.1%}\n"
        )
    sys.stdout.write(f"dense parent: {figures.parent_bf16_bytes / 1e6:.2f} MB in bfloat16, ")
    sys.stdout.write(f"perplexity {figures.parent_perplexity:.2f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
