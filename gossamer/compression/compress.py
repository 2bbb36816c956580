"""The public verbs of compression: `compress` and `plan`."""

import itertools
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gossamer.calibration.ranks import Ranks
from gossamer.checkpoint.manifest import MANIFEST_NAME
from gossamer.checkpoint.source import Source, open_model
from gossamer.checkpoint.untouched import untouched
from gossamer.checkpoint.write.writer import FolderWriter, Nowhere, check_target
from gossamer.compression.loop import Run
from gossamer.compression.preview import Plan, make_plan
from gossamer.compression.state import kept_calibration, kept_shares, restore, save
from gossamer.compression.windows import with_calibration
from gossamer.compression.work_folder import WorkFolder
from gossamer.errors import UsageError
from gossamer.evaluation.speed.memory import PeakMemory
from gossamer.methods.reconstruct import Reconstruct
from gossamer.methods.solve.target import PruneTarget
from gossamer.progress import Progress, silent
from gossamer.recipe.reader import load_recipe
from gossamer.recipe.recipe import EMBEDDINGS, HEAD, Recipe, Step
from gossamer.recipe.table import METHODS
from gossamer.version import __version__


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives back: the folder it wrote, and what stands in its `gossamer.json`."""

    folder: Path
    manifest: dict[str, Any]


def compress(
    model: str | Path,
    recipe: str | Recipe,
    *,
    out: str | Path,
    text: str | None = None,
    samples: int | None = None,
    length: int | None = None,
    seed: int | None = None,
    layers: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    minutes: float | None = None,
    progress: Progress = silent,
) -> Compressed:
    """Compress `model` by `recipe` and write the folder `out`.

    Args:
        model: folder with safetensors, GGUF file, or hub id.
        recipe: a shipped recipe's name, a YAML file, or a `Recipe`.
        out: the folder to write; it appears complete or not at all.
        text: calibration text (file, folder or data set). Without it a causal model writes its own.
        samples, length, seed: number of windows, tokens in each, and seed; they override the recipe's.
        layers: glob of the only layers to touch.
        overwrite: replace `out` if it is a model folder.
        resume: go on from where a run to the same `out` was stopped (kill, interrupt, power cut), if there was one.
        minutes: what the run may take: blocks are trained (`reconstruct`) as long as that lasts, in every recipe
            that prunes. Two runs are then not alike. Without it they are trained as the recipe says.
        progress: called as the work goes on.

    Started by torchrun, the processes share the windows of text, and the first one writes; the others get an empty
    manifest.

    Raises:
        GossamerError: bad model, recipe, text or target; nothing has been written then.
    """
    out = Path(out)
    check_target(out, overwrite)
    recipe = with_training(with_calibration(load_recipe(recipe), samples, length, seed), minutes)
    source = open_model(model)
    check_target(out, overwrite, source.reader.weight_files)
    with Ranks() as ranks:
        if ranks.size > 1:
            check_together(recipe, resume)
        if ranks.rank > 0:
            helper = Run(source, recipe, layers, Nowhere(), progress, ranks)
            helper.calibrate(text, length is not None)
            helper.embedding()
            helper.blocks(lambda: None)
            helper.head()
            return Compressed(out, {})
        with (
            PeakMemory() as memory,
            WorkFolder(out, resume) as work,
            FolderWriter(out, overwrite, work.path) as writer,
        ):
            run = Run(source, recipe, layers, writer, progress, ranks, minutes)
            work.begin(_identity(source, recipe, layers, text))
            for note in untouched(source.architecture).notes:
                progress(note, 0, 0)
            run.calibrate(text, length is not None, kept_calibration(work), kept_shares(work))
            if work.progress is None:
                run.embedding()
            else:
                restore(run, work)
            work.go()
            run.blocks(lambda: save(run, work) if ranks.size == 1 else None)
            run.head()
            run.rest()
            manifest = run.finish()
            manifest["run"] = {
                "seconds": run.seconds(),
                "minutes_given": minutes,
                "resumed": run.resumed,
                "peak_memory_bytes": memory.peak_anonymous_bytes,
                "peak_resident_bytes": memory.peak_resident_bytes,
                "processes": ranks.size,
                "threads": torch.get_num_threads(),
                "cpu": platform.processor() or platform.machine(),
            }
            writer.add_json(MANIFEST_NAME, manifest)
            writer.commit()
        return Compressed(out, manifest)


def check_together(recipe: Recipe, resume: bool) -> None:
    """Raise UsageError for what only one process can do."""
    if resume:
        raise UsageError(
            "--resume: a run of several processes keeps no state. Start it with one, or without --resume."
        )
    training = [step.method for step in recipe.steps if step.trains]
    if training:
        raise UsageError(
            f"{training[0]} trains each block on all of the text, which several processes cannot do together. Start it "
            "without torchrun, or leave the step (or --minutes) out."
        )


def with_training(recipe: Recipe, minutes: float | None) -> Recipe:
    """Return the recipe with a step that trains each block after it was pruned, where it prunes and has none.

    Without minutes it stays as it is. UsageError unless they are a positive number.
    """
    if minutes is None:
        return recipe
    if not 0 < minutes < float("inf"):
        raise UsageError(f"--minutes {minutes:g}: a positive number was expected.")
    pruning = [number for number, step in enumerate(recipe.steps) if isinstance(step.settings, PruneTarget)]
    globs = [
        glob for number in pruning for glob in recipe.steps[number].layers if glob not in (EMBEDDINGS, HEAD)
    ]
    if not globs or any(step.trains for step in recipe.steps):
        return recipe
    last = pruning[-1] + 1
    methods = (METHODS[step.method] for step in recipe.steps[last:])
    at = last + len(list(itertools.takewhile(lambda each: not each.quantizes and not each.corrects, methods)))
    training = Step(tuple(dict.fromkeys(globs)), "reconstruct", Reconstruct())
    steps = (*recipe.steps[:at], training, *recipe.steps[at:])
    return replace(recipe, steps=steps)


def _identity(source: Source, recipe: Recipe, layers: str | None, text: str | None) -> dict[str, Any]:
    """What has to be the same for a stopped run to go on."""
    return {
        "gossamer": __version__,
        "parent's sha256": source.fingerprint(),
        "steps": [step.to_dict() for step in recipe.steps],
        "skip": recipe.skip,
        **recipe.calibration.model_dump(),
        "layers": layers,
        "text": None if text is None else Path(text).name,
    }


def plan(
    model: str | Path,
    recipe: str | Recipe,
    *,
    samples: int | None = None,
    length: int | None = None,
    layers: str | None = None,
    minutes: float | None = None,
) -> Plan:
    """Return what `compress` would do with these arguments, without reading a weight or writing a byte."""
    recipe = with_training(with_calibration(load_recipe(recipe), samples, length, None), minutes)
    return make_plan(open_model(model), recipe, layers)
