"""What a step of `recover` costs beside a plain one: distilling a dense student in transformers, the same batch.

    python -m benchmarks.steps FOLDER [--rounds N] [--steps N] [--through COMMAND] [--out DIR]

FOLDER: SmolLM2-135M, compressed. The plain step is what one would write without us: teacher and student both dense,
products in bfloat16 (autocast) where the CPU has them and else in float32, as ours are, two windows at a time, KL over
the vocabulary by `kl_div`, clipped gradients, fused AdamW over all weights of the blocks. Sides take turns, each round
a process of its own, whose first step is thrown away; figures are medians over all steps, ratios medians over rounds.
Writes steps.json and steps.md.
"""

import argparse
import copy
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

import gossamer
from benchmarks.heading import heading
from benchmarks.visits import say
from gossamer.data.assets import fetch_demo_assets
from gossamer.evaluation.kept import KeptModel
from gossamer.evaluation.speed.surroundings import cpu_model, num_cores, versions
from gossamer.files import write_json
from gossamer.training import loop, schedule
from gossamer.training.precision import chosen, mixed_precision
from gossamer.training.settings import TrainingSettings

BATCH, LENGTH, AT_ONCE = 4, 512, 2
SIDES = ("plain", "recover")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="in a round, behind the one that is thrown away")
    parser.add_argument("--through", default="", metavar="COMMAND", help="put before each process")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        steps = plain if given.side == "plain" else ours
        json.dump(steps(given.folder, given.steps + 1)[1:], sys.stdout)
        return
    rounds = []
    for number in range(given.rounds):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        rounds.append({side: measured(side, given) for side in order})
    record = {
        "cpu": cpu_model(),
        "versions": versions(),
        "command": f"python -m benchmarks.steps, {given.rounds} rounds of {given.steps} steps",
        "date": time.strftime("%Y-%m-%d"),
        "threads": num_cores(),
        "precision": str(chosen("auto")).removeprefix("torch."),
        "folder": given.folder.name,
        "rounds": rounds,
    }
    write_json(given.out / "steps.json", record)
    (given.out / "steps.md").write_text(as_page(record), encoding="utf-8")


def measured(side: str, given: argparse.Namespace) -> list[float]:
    """Return the seconds of each step, from a process of its own."""
    command = [
        *shlex.split(given.through), sys.executable, "-m", "benchmarks.steps", str(given.folder),
        "--steps", str(given.steps), "--side", side,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    say(f"{side}: {', '.join(f'{each:.1f}' for each in seconds)} s")
    return seconds


def plain(_: Path, steps: int) -> list[float]:
    """Steps as one would write them with transformers alone."""
    teacher = KeptModel(fetch_demo_assets().model_gguf).model.float().eval()
    student = copy.deepcopy(teacher).train()
    student.get_input_embeddings().requires_grad_(False)
    trained = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    seconds = []
    for number in range(steps):
        ids_BL = torch.randint(
            student.config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(number)
        )
        began = time.perf_counter()
        for part_BL in ids_BL.split(AT_ONCE):
            with mixed_precision(chosen("auto")):
                with torch.no_grad():
                    wanted_TV = teacher(part_BL, use_cache=False).logits.flatten(0, 1).log_softmax(-1)
                found_TV = student(part_BL, use_cache=False).logits.flatten(0, 1).log_softmax(-1)
                loss = functional.kl_div(found_TV, wanted_TV, reduction="batchmean", log_target=True)
            (loss * len(part_BL) / BATCH).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return seconds


def ours(folder: Path, steps: int) -> list[float]:
    """The steps of a run of `recover`."""
    seconds: list[float] = []
    step = loop.step

    def timed(*args: Any) -> bool:
        began = time.perf_counter()
        good = step(*args)
        seconds.append(time.perf_counter() - began)
        return good

    assets = fetch_demo_assets()
    with (
        tempfile.TemporaryDirectory() as work,
        patch.object(loop, "step", timed),
        patch.object(schedule, "JUDGED", 1),
    ):
        gossamer.recover(
            folder, parent=assets.model_gguf, text=assets.calibration_text, out=Path(work) / "out", steps=steps,
            settings=TrainingSettings(batch=BATCH, length=LENGTH),
        )  # fmt: skip
    return seconds


def as_page(record: dict[str, Any]) -> str:
    """Return steps.md."""
    of = {side: [each for one in record["rounds"] for each in one[side]] for side in SIDES}
    ratios = [statistics.median(one["recover"]) / statistics.median(one["plain"]) for one in record["rounds"]]
    lines = [
        "# What a step of recovery costs beside a plain one",
        "",
        heading(record)
        + f", {record['date']}, {record['threads']} threads. `{record['folder']}`; {BATCH} windows of {LENGTH} tokens "
        f"a step, teacher and all; products in {record['precision']} on both sides. Plain: dense student and teacher "
        "in transformers, fused AdamW over all weights of the blocks.",
        "",
        "| step | seconds, median (smallest to largest) |",
        "|---|---|",
    ]
    lines += [
        f"| {side} | {statistics.median(of[side]):.1f} ({min(of[side]):.1f} to {max(of[side]):.1f}) |"
        for side in SIDES
    ]
    lines += [
        "",
        f"recover / plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
