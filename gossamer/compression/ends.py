"""The two ends of a model: the token embedding before the blocks, the output head after them, and all that is dense.

O output features, I input features.
"""

from torch import Tensor

from gossamer.calibration.merge import merged
from gossamer.calibration.observe import main_output, observed
from gossamer.compression.job import Job
from gossamer.compression.layer import LayerWork
from gossamer.compression.outside import modules_outside_blocks, tie
from gossamer.compression.run_state import RunState
from gossamer.compression.stages import apply_steps, pack_layer, wanted_of
from gossamer.formats.packed import from_tensors, tensor_specs


def compress_embedding(job: Job, state: RunState) -> None:
    """Compress the token embedding, and with it every module that is tied to it."""
    name = job.architecture.token_embedding
    if not job.selection.embedding or name is None:
        return
    layer = LayerWork.of(job.model, job.architecture.matrix(name))
    apply_steps(job, layer, job.selection.embedding, None)
    pack_layer(job, state, layer, None)
    tie(job.model, job.architecture)
    originals = dict(job.architecture.tied)
    owner = originals.get(f"{name}.weight", f"{name}.weight")
    for copy, original in job.architecture.tied:
        module = copy.removesuffix(".weight")
        if original == owner and copy.endswith(".weight") and module != name:
            state.tied[module] = name
    if owner != f"{name}.weight":
        state.tied[owner.removesuffix(".weight")] = name
        state.written.add(owner)


def compress_head(job: Job, state: RunState) -> Tensor:
    """Compress an untied head on what it will really see; return the outputs of the compressed model for a batch."""
    name = job.architecture.output_head
    if name is not None and job.selection.head:
        wanted = wanted_of(job, {name: job.selection.head})
        with observed(wanted) as statistics:
            for _ in job.runner.outputs() if wanted else ():
                pass
        layer = LayerWork.of(job.model, job.architecture.matrix(name))
        apply_steps(job, layer, job.selection.head, merged(job.processes, statistics).get(name))
        pack_layer(job, state, layer, None)
    return main_output(next(job.runner.outputs())).float()


def write_outside(job: Job, state: RunState) -> None:
    """Write what lies outside of the blocks and was not packed."""
    for name in modules_outside_blocks(job.model, job.architecture.blocks):
        write_dense(job, state, name)


def write_dense(job: Job, state: RunState, prefix: str) -> None:
    """Write the tensors of a module that were not packed, as the parent stores them."""
    for key, tensor in job.model.get_submodule(prefix).state_dict().items():
        name = f"{prefix}.{key}"
        if name not in state.written:
            state.written.add(name)
            job.writer.add({name: tensor.to("cpu", job.stored_dtypes[name])})


def restore_ends(job: Job, state: RunState) -> None:
    """Give the modules that a stopped run packed before the blocks the values that it has written."""
    blocks = tuple(f"{block}." for block in job.architecture.blocks)
    for name, meta in state.packed.items():
        if not name.startswith(blocks):
            stored = job.writer.tensors(f"{name}.{key}" for key in tensor_specs(meta))
            packed = from_tensors(
                meta, {key.removeprefix(f"{name}."): value for key, value in stored.items()}
            )
            job.architecture.matrix(name).put(job.model, packed.unpack())
    tie(job.model, job.architecture)
    forget_dense_embedding(job, state)


def forget_dense_embedding(job: Job, state: RunState) -> None:
    """Once a dense block is finished, its outputs stand for the embedding's: ours serves in its place."""
    done = {name for name, _ in job.places()[: state.done]}
    begun = done & set(job.architecture.stacks[-1])
    if job.dense is not None and job.architecture.token_embedding is not None and begun:
        ours = job.model.get_submodule(job.architecture.token_embedding)
        job.dense.model.set_submodule(job.architecture.token_embedding, ours)
