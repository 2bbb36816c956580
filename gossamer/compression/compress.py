"""The verb `compress`, and `preview`, which tells what it would do."""

import itertools
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gossamer.checkpoint.manifest import MANIFEST_NAME
from gossamer.checkpoint.source import open_model
from gossamer.checkpoint.untouched import untouched
from gossamer.checkpoint.write.work_folder import WorkFolder
from gossamer.checkpoint.write.writer import FolderWriter, Nowhere, check_target
from gossamer.compression.job import Request, prepare
from gossamer.compression.keeping import load, save
from gossamer.compression.keeping import resume as resume_run
from gossamer.compression.loop import compress_model
from gossamer.compression.phase_clock import WRITE
from gossamer.compression.preview import Preview, preview_of
from gossamer.compression.record import effort, finish
from gossamer.compression.recovering import check_recovery, compress_and_recover, recovery_of
from gossamer.compression.selection import select
from gossamer.compression.windows import with_calibration
from gossamer.distributed.processes import Processes
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
    device: str = "cpu",
    recover_minutes: float | None = None,
    recover_steps: int | None = None,
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
        device: where the blocks are observed, fitted and run, such as `cuda`.
        recover_minutes: afterwards recover the result towards `model` on the same text, for so long; or recover_steps:
            for so many steps. What is written has been compressed and recovered.
        progress: called as the work goes on, in the first process alone.

    Started by torchrun, the processes share the windows of text, and the first one writes; the others get an empty
    manifest.

    Raises:
        GossamerError: bad model, recipe, text or target; nothing has been written then.
    """
    out = Path(out)
    check_target(out, overwrite)
    given = with_training(with_calibration(load_recipe(recipe), samples, length, seed), minutes)
    source = open_model(model)
    check_target(out, overwrite, source.reader.weight_files)
    request = Request(source, given, layers, text, length is not None, minutes, usable_device(device))
    recovery = recovery_of(recover_minutes, recover_steps, text, length, given.calibration.seed)
    with Processes() as processes:
        if recovery is None:
            return Compressed(out, _together(request, processes, out, overwrite, resume, progress))
        fingerprint = check_recovery(source, recovery, processes, progress)
        identity = {**_identity(request), "text's fingerprint": fingerprint}
        into = partial(_write, request, processes, overwrite=False, resume=True, progress=progress)
        return Compressed(
            out, compress_and_recover(model, recovery, identity, into, out, overwrite, resume, progress)
        )


def _together(
    request: Request, processes: Processes, out: Path, overwrite: bool, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Compress in every process; the manifest is empty in all but the first."""
    if processes.count > 1:
        check_together(request.recipe, resume)
    if processes.index > 0:
        job, state = prepare(request, processes, Nowhere(), silent, None)
        compress_model(job, state, keep=lambda: None)
        return {}
    return _write(request, processes, out, overwrite, resume, progress)


def _write(
    request: Request, processes: Processes, out: Path, overwrite: bool, resume: bool, progress: Progress
) -> dict[str, Any]:
    """Compress in the process that writes: keep the state after each block, and write the folder at the end."""
    config = request.source.config.to_dict()
    with (
        PeakMemory() as memory,
        WorkFolder(out, resume) as work,
        FolderWriter(out, overwrite, work.path) as writer,
    ):
        select(request.source, request.recipe, request.layers)  # refused before a stopped run is compared
        work.begin(_identity(request))
        for note in untouched(request.source.architecture).notes:
            progress(note, 0, 0)
        kept = load(work)
        job, state = prepare(request, processes, writer, progress, kept)
        if kept is not None:
            resume_run(job, state, work)
        work.go()

        def keep() -> None:
            if processes.count == 1:
                with job.clock.phase(WRITE):
                    save(job, state, work)

        outputs = compress_model(job, state, keep)
        manifest = finish(job, state, config, outputs)
        manifest["run"] = effort(job, state, memory)
        writer.add_json(MANIFEST_NAME, manifest)
        writer.commit()
    return manifest


def usable_device(name: str) -> torch.device:
    """Return the device of that name; UsageError for one that this machine or this build of torch has not."""
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.float64, device=device)  # factors are taken in it
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise UsageError(
            f"--device {name}: cannot be used here ({str(error).splitlines()[0]:.200})."
        ) from error
    if device.type == "meta":
        raise UsageError("--device meta: holds no values. Use cpu, or a GPU such as cuda.")
    return device


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


def _identity(request: Request) -> dict[str, Any]:
    """What has to be the same for a stopped run to go on."""
    recipe = request.recipe
    return {
        "gossamer": __version__,
        "parent's sha256": request.source.fingerprint(),
        "steps": [step.to_dict() for step in recipe.steps],
        "skip": recipe.skip,
        **recipe.calibration.model_dump(),
        "layers": request.layers,
        "text": None if request.text is None else Path(request.text).name,
    }


def preview(
    model: str | Path,
    recipe: str | Recipe,
    *,
    samples: int | None = None,
    length: int | None = None,
    layers: str | None = None,
    minutes: float | None = None,
) -> Preview:
    """Return what `compress` would do with these arguments, without reading a weight or writing a byte."""
    recipe = with_training(with_calibration(load_recipe(recipe), samples, length, None), minutes)
    return preview_of(open_model(model), recipe, layers)
