"""What a search does last where it was asked to: recover the model of the chosen recipe, and judge it again."""

from pathlib import Path

from gossamer.checkpoint.manifest import read_manifest, remember
from gossamer.compression.compress import compress
from gossamer.compression.recovering import Recovery
from gossamer.evaluation.evaluate import evaluate
from gossamer.frontier.job import Job
from gossamer.frontier.results import CHOSEN, KEPT, RecoveredFigures, SearchResult
from gossamer.recipe.reader import load_recipe
from gossamer.recipe.recipe import Recipe
from gossamer.training.recover import recover

RECOVERED = "recovered"
"""Folder of the recovered model."""


def recover_chosen(job: Job, result: SearchResult, recovery: Recovery) -> RecoveredFigures:
    """Recover the chosen model into `RECOVERED`, or find it there; its text is what the search has calibrated on.

    Raises GossamerError as `recover` does.
    """
    small, out = job.out / KEPT, job.out / RECOVERED
    recipe = load_recipe(str(job.out / CHOSEN))
    if not _made_by(small, recipe):
        compress(
            job.model, recipe, out=small, text=str(job.texts[0]), overwrite=True, resume=True,
            progress=job.progress,
        )  # fmt: skip
    if not _recovered_from(out, recipe, recovery):
        recover(
            small, parent=job.model, out=out, text=recovery.text, minutes=recovery.minutes, steps=recovery.steps,
            settings=recovery.settings, overwrite=True, resume=True, progress=job.progress,
        )  # fmt: skip
    before, after = (_perplexity(job, folder) for folder in (small, out))
    run = read_manifest(out)["recovery"][-1]
    return RecoveredFigures(
        model=str(out),
        perplexity=after,
        perplexity_ratio=after / result.dense.perplexity,
        ratio_before=before / result.dense.perplexity,
        tokens=run["tokens"],
        seconds=run["seconds"],
    )


def _made_by(folder: Path, recipe: Recipe) -> bool:
    """True if the folder is there and was made by this recipe, whatever that called itself."""
    if not folder.is_dir():
        return False
    made = read_manifest(folder)["recipe"]
    return all(made[key] == value for key, value in recipe.to_dict().items() if key != "description")


def _recovered_from(folder: Path, recipe: Recipe, recovery: Recovery) -> bool:
    """True if the folder is there, and what was asked for was done to what the recipe made."""
    if not _made_by(folder, recipe):
        return False
    run = read_manifest(folder)["recovery"][-1]
    return (run["minutes_given"], run["steps_given"]) == (recovery.minutes, recovery.steps)


def _perplexity(job: Job, folder: Path) -> float:
    """Judge the folder on the held-out text, and let its manifest remember that."""
    quality = evaluate(folder, text=job.texts[1], num_windows=job.windows, progress=job.progress)
    remember(folder, "evaluation", quality.to_dict())
    assert quality.perplexity is not None  # a causal model
    return quality.perplexity
