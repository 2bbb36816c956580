"""A model larger than memory, pruned and quantized block by block: what stands in docs/benchmarks/streaming.*.

    python benchmarks/streaming.py --work FOLDER [--layers 32] [--blocks N] [--kill N ...] [--keep]

Makes a Llama of random weights in bfloat16, of the width of a 7B one (32 layers: 13 GB in shards), with a byte-level
tokenizer and a text; compresses it in a process of its own; kills that process (SIGKILL) when so many blocks are done
(`--kill 1 3`: twice) and resumes it; watches its resident memory, and the time of each block in its progress.json. With
`--blocks` it is killed for good once so many are done. FOLDER is deleted afterwards, unless `--keep`.

All layers take hours. Stopped itself, the same command goes on where it was.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gossamer.evaluation.speed.memory import usage
from gossamer.evaluation.speed.surroundings import cpu_model, versions
from gossamer.files import write_json

RECIPE = """calibration: {{samples: {samples}, length: {length}, aim: {aim}}}
steps:
  - {{layers: "*", method: sparsegpt, sparsity: 0.5}}
  - {{layers: "*", method: gptq, bits: 4, group_size: 64, rounds: 0}}
  - {{layers: [embeddings, head], method: rtn, bits: 8}}
"""
RING = 16_777_259
WORDS = (
    "the",
    "web",
    "of",
    "a",
    "spider",
    "holds",
    "morning",
    "light",
    "every",
    "thread",
    "stone",
    "river",
    "seven",
)


def config(layers: int) -> transformers.LlamaConfig:
    """Llama 2 7B, with another number of layers."""
    return transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=32, vocab_size=32000, max_position_embeddings=4096, tie_word_embeddings=False,
        dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip


def make_model(folder: Path, layers: int) -> None:
    """Write random weights, a shard for each block, without ever holding more than one."""
    folder.mkdir(parents=True)
    settings = config(layers)
    with torch.device("meta"):
        shapes = {
            name: tensor.shape
            for name, tensor in transformers.LlamaForCausalLM(settings).state_dict().items()
        }
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        shards.setdefault(name.split(".")[2] if ".layers." in name else "outside", {})[name] = shape
    weight_map = {}
    ring = torch.randn(RING, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for number, own in enumerate(shards.values(), start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: random_weight(shape, ring, number) for name, shape in own.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    settings.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def random_weight(shape: torch.Size, ring: torch.Tensor, seed: int) -> torch.Tensor:
    """Cut from a ring of random numbers, whose length no row divides: fast, and no two rows are alike."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    turned = ring.roll(seed * 1_000_003)
    return turned.repeat(-(-shape.numel() // RING))[: shape.numel()].reshape(shape).contiguous()


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def make_text(path: Path) -> None:
    sentences = [
        " ".join(WORDS[(i * 7919 + j * j * (i + 3)) % len(WORDS)] for j in range(12)) + f" {i}."
        for i in range(2000)
    ]
    path.write_text("\n\n".join(sentences))


class Watched:
    """One process that compresses: its memory, and when each block was done. All runs are kept in `runs.json`."""

    def __init__(self, work: Path) -> None:
        self.kept = work / "runs.json"
        self.runs: list[dict[str, Any]] = json.loads(self.kept.read_text()) if self.kept.exists() else []
        self.progress = work / ".out.run" / "progress.json"
        self.command = [
            sys.executable, "-m", "gossamer.cli.app", "compress", str(work / "parent"),
            "--recipe", str(work / "recipe.yaml"), "--text", str(work / "text.txt"),
            "--out", str(work / "out"), "--resume", "--json",
        ]  # fmt: skip

    def run(self, until: int | None) -> None:
        """Run to the end, or until so many blocks are done; then the process is killed."""
        started, begun = time.monotonic(), self.done()
        if until is not None and begun >= until:
            return
        times: dict[int, float] = {begun: started}
        peak = anonymous = 0
        before = list(self.runs)

        def keep(manifest: Any = None, killed: bool = True) -> None:
            order = sorted(times)
            run = {
                "blocks_before": begun,
                "blocks_after": max(order),
                "killed": killed,
                "seconds": time.monotonic() - started,
                "seconds_to_first_block": times[order[1]] - started if len(order) > 1 else None,
                "seconds_by_block": [times[b] - times[a] for a, b in itertools.pairwise(order[1:])],
                "peak_resident_bytes": peak,
                "peak_anonymous_bytes": anonymous,
                "manifest": manifest,
            }
            self.runs = [*before, run]
            write_json(self.kept, self.runs)

        # To a file: what 32 layers have to tell does not fit in a pipe that nobody reads before the end.
        with tempfile.TemporaryFile("w+") as told, subprocess.Popen(self.command, stdout=told) as process:
            while process.poll() is None:
                now = usage(process.pid)
                if now is not None:
                    peak, anonymous = max(peak, now.peak_resident), max(anonymous, now.anonymous)
                if (done := self.done()) not in times and done > begun:
                    times[done] = time.monotonic()
                    keep()
                if until is not None and done >= until:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.05)
            told.seek(0)
            printed = told.read()
        killed = process.returncode == -signal.SIGKILL
        if process.returncode and not killed:
            sys.exit(f"gossamer ended with {process.returncode}")
        keep(None if killed else json.loads(printed) | {"folder": "out"}, killed)

    def done(self) -> int:
        try:
            return int(json.loads(self.progress.read_text())["done"])
        except (OSError, ValueError):
            return 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument(
        "--no-aim", action="store_true", help="fit each layer to its own outputs, as published"
    )
    parser.add_argument(
        "--kill", type=int, nargs="*", default=[1], help="blocks after which it is killed and resumed"
    )
    parser.add_argument("--blocks", type=int, help="stop for good after so many blocks")
    parser.add_argument("--keep", action="store_true", help="leave FOLDER as it is")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.work / "parent").exists():
        make_model(given.work / "parent", given.layers)
        make_text(given.work / "text.txt")
    aim = str(not given.no_aim).lower()
    (given.work / "recipe.yaml").write_text(
        RECIPE.format(samples=given.samples, length=given.length, aim=aim)
    )
    watched = Watched(given.work)
    for until in (*given.kill, given.blocks):
        watched.run(until)
    asked = f"--layers {given.layers} --kill {' '.join(map(str, given.kill))}"
    result = {
        "arguments": asked + (f" --blocks {given.blocks}" if given.blocks else ""),
        "layers": given.layers,
        "parent_bytes": sum(file.stat().st_size for file in (given.work / "parent").glob("*.safetensors")),
        "samples": given.samples,
        "length": given.length,
        "aim": not given.no_aim,
        "threads": torch.get_num_threads(),
        "cpu": cpu_model(),
        "versions": versions(),
        "runs": watched.runs,
    }
    name = "streaming" if not given.no_aim else "streaming-no-aim"
    write_json(given.out / f"{name}.json", result)
    (given.out / f"{name}.md").write_text(page(result))
    if not given.keep:
        shutil.rmtree(given.work)


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Compressing a model that is larger than memory",
        "",
        f"Written by `python benchmarks/streaming.py {result['arguments']}`. A Llama of random weights in bfloat16, "
        f"{result['layers']} layers of the width of a 7B one ({result['parent_bytes'] / 1e9:.1f} GB), half pruned "
        f"(SparseGPT), in 4 bits (GPTQ), {result['samples']} windows of {result['length']} tokens, "
        f"{'aimed at the dense model' if result['aim'] else 'each layer fitted to its own outputs'}; "
        f"{result['cpu']}, {result['threads']} threads. Each row is a process; a killed one was sent SIGKILL, and the "
        "next one resumed.",
        "",
        "| blocks | ended | s | s a block | peak resident GB | of it not mapped files GB |",
        "|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        by_block = run["seconds_by_block"] or [run["seconds_to_first_block"] or 0.0]
        lines.append(
            f"| {run['blocks_before']} to {run['blocks_after']} | {'killed' if run['killed'] else 'done'} | "
            f"{run['seconds']:.0f} | {sum(by_block) / len(by_block):.1f} | {run['peak_resident_bytes'] / 1e9:.2f} | "
            f"{run['peak_anonymous_bytes'] / 1e9:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
