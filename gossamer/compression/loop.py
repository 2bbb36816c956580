"""The loop: one block at a time is read, observed, compressed, run and written.

    for block in blocks:
        observe   forward 1: the inputs of each linear, with everything before it already compressed
        apply     the steps of the recipe, linear by linear; train the block if the recipe says so
        run       forward 2: what the next block will really see
        write     the packed weights

One block at a time is in memory in float32 (two where the dense model's outputs are aligned with); the rest of the
model stays mapped from its files.
"""

from collections.abc import Callable

from torch import Tensor

from gossamer.compression.block import compress_block
from gossamer.compression.ends import (
    compress_embedding,
    compress_head,
    forget_dense_embedding,
    restore_ends,
    write_outside,
)
from gossamer.compression.job import Job
from gossamer.compression.run_state import RunState
from gossamer.recipe.recipe import Recipe


def compress_model(job: Job, state: RunState, keep: Callable[[], None]) -> Tensor:
    """Compress every block that is not done, and what lies around the blocks; `keep` is called after each block.

    Returns the outputs of the compressed model for the first batch, to check what was written against.
    """
    if state.done:
        restore_ends(job, state)
    else:
        compress_embedding(job, state)
    places, total = job.places(), len(job.places())
    for name, stack in places[state.done :]:
        job.progress("blocks", state.done, total)
        with job.time.block(state.done):
            compress_block(job, state, name, stack)
        state.done += 1
        forget_dense_embedding(job, state)
        keep()
    job.progress("blocks", total, total)
    if job.time.total is not None:
        state.notes.append(note_on_training(job.recipe, state))
    outputs = compress_head(job, state)
    write_outside(job, state)
    return outputs


def note_on_training(recipe: Recipe, state: RunState) -> str:
    """Say what became of the minutes that were given."""
    if not any(step.trains for step in recipe.steps):
        return "the recipe prunes no linear of a block by a sparsity, so that --minutes trained nothing"
    trained = sum(bool(block.reconstruction) for block in state.blocks)
    return f"{trained} of {len(state.blocks)} blocks were trained in the time that was given"
