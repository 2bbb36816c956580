"""One run of `compress`: what it reads, does to each block, and writes.

    for block in blocks:
        observe   forward 1: the inputs of each linear, with everything before it already compressed
        apply     the steps of the recipe, linear by linear; train the block if the recipe says so
        run       forward 2: what the next block will really see
        write     the packed weights

One block at a time is in memory in float32 (two where the dense model's outputs are aimed at); the rest of the
model stays mapped from its files.

O output features, I input features.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.calibration.batches import model_batches
from gossamer.calibration.observe import BlockRunner, hidden_states, main_output, observed
from gossamer.calibration.pairs import Seen, observe_pairs, parts, residual_after, run_dense, stages
from gossamer.calibration.ranks import Ranks
from gossamer.calibration.statistics import Gram, Moments, Statistic, to_collect
from gossamer.checkpoint.plugin.quantizer import quantization_config
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.write.side_files import copy_side_files
from gossamer.checkpoint.write.writer import FolderWriter, disk_errors
from gossamer.compression.block import LayerReport, Phase, Work, phases
from gossamer.compression.preview import Steps, select, stored_dtypes
from gossamer.compression.record import manifest_of
from gossamer.compression.reload_check import reload_difference
from gossamer.compression.sharing import Shares, shared_out
from gossamer.compression.thresholds import global_thresholds
from gossamer.compression.time_budget import TimeBudget
from gossamer.compression.windows import SELF_WRITTEN, Calibration, calibration_samples, fitting_length
from gossamer.errors import CalibrationError, CheckpointError
from gossamer.formats.choose import pack
from gossamer.formats.low_rank import residual_mask
from gossamer.methods.reconstruct import Reconstruct, reconstruct, token_errors, vectors_of
from gossamer.progress import Progress
from gossamer.recipe.recipe import Recipe
from gossamer.recipe.table import METHODS


def output_errors(returned: list[Any], wanted: list[Any]) -> Tensor:
    """|block(x) - wanted|^2 / |wanted|^2 of every token."""
    pairs = zip(map(hidden_states, returned), map(hidden_states, wanted), strict=True)
    return torch.cat([token_errors(*pair).flatten() for pair in pairs])


class Run:
    """One run of `compress`: what it reads, and what it has written so far."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        layers: str | None,
        writer: FolderWriter,
        progress: Progress,
        ranks: Ranks,
        minutes: float | None = None,
    ) -> None:
        self.selected = select(source, recipe, layers)
        self.ranks = ranks
        self.source, self.recipe, self.writer, self.progress = source, recipe, writer, progress
        self.parts = source.architecture
        self.config = source.config.to_dict()
        self.model = source.model
        self.model.config.use_cache = False
        self.stored_dtypes = stored_dtypes(source)
        self.packed: dict[str, dict[str, Any]] = {}
        self.tied: dict[str, str] = {}
        self.reports: list[LayerReport] = []
        self.notes: list[str] = []
        self.dense: BlockRunner | None = None
        self.dense_seen: list[Seen] | None = None
        self.work: dict[str, Work] = {}
        self.trained: dict[str, list[dict[str, float]]] = {}
        self.block_reports: list[dict[str, Any]] = []
        self.written: set[str] = {copy for copy, _original in self.parts.tied}
        self.outside = _modules_outside_blocks(self.model, self.parts.blocks)
        self.done = 0
        """Blocks that are finished."""
        self.started, self.seconds_before, self.resumed = time.monotonic(), 0.0, 0
        self.seconds_keeping = (0.0, 0.0)
        """How long keeping the state has taken: in all, and the last time."""
        self.time = TimeBudget(minutes and 60 * minutes, len(self.parts.blocks), self.seconds)

    def calibrate(
        self,
        text: str | None,
        length_given: bool,
        kept: Calibration | None = None,
        shares: Shares | None = None,
    ) -> None:
        """Get the batches that the model will see; where nothing is to be observed, one short random one.

        `kept` are windows and record of a stopped run, which stand for a text that the model wrote itself; `shares` is
        what it has shared out.
        """
        steps = [step for chosen in self.selected.linears.values() for step in chosen]
        if any(step.needs_text for step in (*steps, *self.selected.head)):
            recipe = fitting_length(self.recipe, self.model, length_given, self.notes)
            if kept is not None and text is None and kept[1]["source"] == SELF_WRITTEN:
                self.ids_NL, self.calibration = kept
            else:
                self.ids_NL, self.calibration = calibration_samples(
                    self.source, recipe, text, self.progress, self.notes
                )
        else:
            vocabulary = self.model.config.get_text_config().vocab_size
            generator = torch.Generator().manual_seed(0)
            self.ids_NL = torch.randint(vocabulary, (1, 16), generator=generator)
            self.calibration = {"source": None}
        for name in self.outside:
            self.model.set_submodule(name, self.source.materialise(name))
            self._round_as_written(name, self._will_be_packed())
        self.tie()
        linears = self.selected.linears
        self.shares = shares or shared_out(
            self.source, linears, self.ids_NL, self.ranks, self.notes, self.progress
        )
        self.selected = replace(self.selected, linears=self.shares.applied(linears))
        self.thresholds = global_thresholds(self.source, linears, self.progress)
        self.batches = self.ranks.share(model_batches(self.model, self.ids_NL, self.notes))
        self.runner = BlockRunner(self.model, self.batches)
        self.aims = self.recipe.calibration.aim and any(step.needs is Gram for step in steps)
        if self.aims or any(step.trains for step in steps):
            self.dense = self._dense_runner()

    def embedding(self) -> None:
        """Compress the token embedding, and with it every module that is tied to it."""
        name = self.parts.token_embedding
        if not self.selected.embedding or name is None:
            return
        work = self._work(name)
        self._apply(work, self.selected.embedding, None)
        self._pack(work, None)
        self.tie()
        originals = dict(self.parts.tied)
        owner = originals.get(f"{name}.weight", f"{name}.weight")
        for copy, original in self.parts.tied:
            module = copy.removesuffix(".weight")
            if original == owner and copy.endswith(".weight") and module != name:
                self.tied[module] = name
        if owner != f"{name}.weight":
            self.tied[owner.removesuffix(".weight")] = name
            self.written.add(owner)

    def blocks(self, keep: Callable[[], None]) -> None:
        """The loop: for each block that is not done observe, apply, run, write; then `keep` what was reached."""
        total = len(self.parts.blocks)
        places = [(name, stack) for stack in self.parts.stacks for name in stack]
        for name, stack in places[self.done :]:
            self.progress("blocks", self.done, total)
            with self.time.block(self.done):
                self._block(name, stack)
            self.done += 1
            self.forget_dense_embedding()
            keep()
        self.progress("blocks", total, total)
        if self.time.total is not None:
            trains = any(step.trains for step in self.recipe.steps)
            self.notes.append(
                f"{len(self.trained)} of {total} blocks were trained in the time that was given"
                if trains
                else "the recipe prunes no linear of a block by a sparsity, so that --minutes trained nothing"
            )

    def seconds(self) -> float:
        """Time that the run took so far, in all the processes that worked on it."""
        return self.seconds_before + time.monotonic() - self.started

    def blocks_done(self) -> tuple[str, ...]:
        """Names of the blocks that are finished."""
        return tuple(name for stack in self.parts.stacks for name in stack)[: self.done]

    def _block(self, name: str, stack: Sequence[str]) -> None:
        self.model.set_submodule(name, self.source.materialise(name))
        wanted = self._dense_returns(name)
        steps = {
            linear: self.selected.linears[linear]
            for linear in self.parts.linears(name)
            if linear in self.selected.linears
        }
        self.work = {linear: self._work(linear) for linear in steps}
        num_reports, order = len(self.reports), list(steps)
        for phase in phases(steps):
            self._apply_phase(name, self.done, phase, wanted)
        self.reports[num_reports:] = sorted(
            self.reports[num_reports:], key=lambda each: order.index(each.name)
        )
        self._round_as_written(name, self.written)
        returned = self.runner.run(name)
        self._report_block(name, returned, wanted)
        self.runner.finish(name, returned, stack)
        self._write_dense(name)
        self.source.release(name)
        if self.dense is not None and wanted is not None:
            self.dense.finish(name, wanted, stack)
            self.dense.model.set_submodule(name, self.source.model.get_submodule(name))

    def head(self) -> None:
        """Compress an untied head on what it will really see, and measure the outputs of the compressed model."""
        name = self.parts.output_head
        if name is not None and self.selected.head:
            wanted = self._wanted({name: self.selected.head})
            with observed(wanted) as statistics:
                for _ in self.runner.outputs() if wanted else ():
                    pass
            work = self._work(name)
            self._apply(work, self.selected.head, self.ranks.together(statistics).get(name))
            self._pack(work, None)
        self.measured = main_output(next(self.runner.outputs())).float()

    def rest(self) -> None:
        """Write what lies outside of the blocks and was not packed."""
        for name in self.outside:
            self._write_dense(name)

    def finish(self) -> dict[str, Any]:
        """Write the other files, load the folder again as a check, and return the manifest."""
        config = {**self.config, "architectures": [type(self.model).__name__], "dtype": "float32"}
        config["quantization_config"] = quantization_config(self.packed, self.tied)
        config.pop("_name_or_path", None)
        with disk_errors(self.writer.out):
            copy_side_files(self.source, self.writer.folder)
        self.writer.add_json("config.json", config)
        self.writer.finish()
        self.progress("loading the result as a check", 0, 1)
        self._let_go()
        model_class, blocks = type(self.model), self.parts.blocks
        difference = reload_difference(
            self.writer.folder, model_class, blocks, self.batches[0], self.measured
        )
        self.progress("loading the result as a check", 1, 1)
        return manifest_of(self, difference)

    def _let_go(self) -> None:
        """Give back the memory of what is no longer needed: what the blocks returned, and what lies around them."""
        self.dense = self.dense_seen = None
        self.runner = BlockRunner(self.model, self.batches[:1])
        for name in self.outside:
            self.source.release(name)

    def _dense_runner(self) -> BlockRunner:
        """A second model that stays dense."""
        return BlockRunner(_twin(self.model), self.batches)

    def _dense_returns(self, block: str) -> list[Any] | None:
        """Put the block into the dense model and return what it returns there; None if nobody will ask."""
        if self.dense is None:
            return None
        self.dense.model.set_submodule(block, _twin(self.model.get_submodule(block)))
        returned, self.dense_seen = run_dense(self.dense, block, self.parts.linears(block))
        return returned

    def forget_dense_embedding(self) -> None:
        """Once a dense block is finished, its outputs stand for the embedding's: ours serves in its place."""
        begun = set(self.blocks_done()) & set(self.parts.stacks[-1])
        if self.dense is not None and self.parts.token_embedding is not None and begun:
            ours = self.model.get_submodule(self.parts.token_embedding)
            self.dense.model.set_submodule(self.parts.token_embedding, ours)

    def _apply_phase(self, block: str, number: int, phase: Phase, wanted: list[Any] | None) -> None:
        """Apply the steps of each linear, then train the block; what runs later in it sees the earlier ones done."""
        apart = [settings for settings in phase.trained if settings.apart]
        whole = [settings for settings in phase.trained if not settings.apart]
        settled: list[nn.Parameter] = []
        for part, until in self._parts(block, bool(apart)):
            own = {name: steps for name, steps in phase.linears.items() if name in part}
            for stage in self._stages(block, own):
                statistics = self._observe(block, {name: own[name] for name in stage})
                self._aim(statistics)
                for name in stage:
                    self._apply(self.work[name], own[name], statistics.get(name))
                    if name in phase.last and not phase.trained:
                        self._pack(self.work.pop(name), number)
            for settings in apart:
                names = [name for name in phase.trained[settings] if name in part]
                self._train(block, settings, names, until, wanted, settled)
        for settings in whole:
            self._train(block, settings, phase.trained[settings], None, wanted, settled)
        for name in phase.last if phase.trained else ():
            self._pack(self.work.pop(name), number)

    def _train(
        self,
        block: str,
        settings: Reconstruct,
        names: list[str],
        until: str | None,
        wanted: list[Any] | None,
        settled: list[nn.Parameter],
    ) -> None:
        """Train linears of a block, norms and biases but for the settled ones, which those trained here then join."""
        if not names:
            return
        assert wanted is not None
        assert self.dense is not None
        self.progress(f"reconstructing {block}", 0, 1)
        weights = {self.parts.matrix(name).holder(self.model): self._stored_mask(name) for name in names}
        vectors = vectors_of(self.model.get_submodule(block))
        before = [each.data for each in vectors]
        with self.time.training() as seconds:
            if seconds > 0:
                targets = [hidden_states(each) for each in wanted]
                if until is not None:
                    with torch.inference_mode():
                        targets = [
                            residual_after(self.dense, block, until, number) for number in range(len(targets))
                        ]
                gain = reconstruct(
                    self.runner, block, targets, weights, settings, until=until, but=settled, seconds=seconds
                )  # fmt: skip
                self.trained.setdefault(block, []).append(asdict(gain))
        settled += [
            each for each, value in zip(vectors, before, strict=True) if not torch.equal(each.data, value)
        ]
        for name in names:
            self.work[name].take(self.parts.matrix(name).get(self.model))

    def _stored_mask(self, name: str) -> Tensor | None:
        """The mask of a matrix, the way round that the model holds it."""
        mask_OI = self.work[name].layer.mask_OI
        return None if mask_OI is None else self.parts.matrix(name).as_stored(mask_OI)

    def _parts(self, block: str, apart: bool) -> list[tuple[list[str], str | None]]:
        """The linears that are trained apart, and where each part ends."""
        every = list(self.parts.linears(block))
        return parts(self.runner, block, every) if apart else [(every, None)]

    def _stages(self, block: str, linears: Mapping[str, Steps]) -> list[list[str]]:
        """The linears to be compressed together; one after the other where each is to see the earlier ones."""
        if not self.aims or not self._wanted(linears):
            return [list(linears)] if linears else []
        return self.ranks.agreed(stages(self.runner, block, list(linears)))

    def _wanted(self, linears: Mapping[str, Steps]) -> dict[str, tuple[nn.Module, type]]:
        """The module and the one statistic that serves all its steps, for those that need any."""
        wanted = {}
        for name, steps in linears.items():
            classes = to_collect(step.needs for step in steps)
            if classes:
                wanted[name] = (self.model.get_submodule(name), classes[0])
        return wanted

    def _observe(self, block: str, linears: Mapping[str, Steps]) -> Mapping[str, Statistic]:
        wanted = self._wanted(linears)
        if not wanted:
            return {}
        statistics: Mapping[str, Statistic]
        if self.aims and self.dense is not None:
            every = self.parts.linears(block)
            statistics = observe_pairs(self.runner, self.dense, block, every, list(wanted), self.dense_seen)
        else:
            with observed(wanted) as statistics:
                self.runner.run(block)
        statistics = self.ranks.together(statistics)
        for linear in wanted:
            if linear not in statistics:
                raise CalibrationError(
                    f"{linear}: no calibration token ever reached it. Give more text, or `skip` it."
                )
        return statistics

    def _aim(self, statistics: Mapping[str, Statistic]) -> None:
        """Fit the linears to the dense model's outputs where these are known, which are then forgotten."""
        moments = {name: each for name, each in statistics.items() if isinstance(each, Moments)}
        for name, each in moments.items():
            with self.work[name].working():
                self.work[name].aim(each)
        for each in moments.values():
            each.forget_dense()

    def _apply(self, work: Work, steps: Steps, statistic: Statistic | None) -> None:
        """Apply the steps to one matrix and put the result in its place."""
        with work.working():
            work.see(statistic)
            by_weight = not work.steps
            for step in steps:
                given = self.thresholds.get(step, statistic if step.needs is not None else None)
                weight_O = self.shares.weights(work.name, step)
                if weight_O is not None:
                    work.layer = work.layer.weighed(weight_O.sqrt())
                apply = METHODS[step.method].apply
                by_weight = by_weight and step.prunes_by_weight
                if by_weight:  # by the weights that the model came with, not by what aiming made of them
                    mask_OI = apply(work.as_given(), given, step.settings, work.notes).mask_OI
                    work.layer = work.layer if mask_OI is None else work.layer.pruned(mask_OI)
                else:
                    work.layer = apply(work.layer, given, step.settings, work.notes)
                if weight_O is not None:
                    work.layer = work.layer.weighed(weight_O.rsqrt())
                error = work.error(work.layer.whole_OI)
                work.steps.append({"method": step.method, "relative_error": error})
        self.parts.matrix(work.name).put(self.model, work.layer.whole_OI)

    def _pack(self, work: Work, block: int | None) -> None:
        """Hand the packed form of one matrix to the writer, and put the values that it has in its place."""
        started, name, layer = time.monotonic(), work.name, work.layer
        matrix = self.parts.matrix(name)
        dtype = self.stored_dtypes[matrix.parameter]
        packed = pack(layer.weight_OI, layer.mask_OI, layer.quantized, dtype, layer.factors)
        weight_OI = self.ranks.same(packed.unpack())
        matrix.put(self.model, weight_OI)
        self.packed[name] = packed.meta()
        self.writer.add({f"{name}.{key}": tensor for key, tensor in packed.tensors().items()})
        self.written.add(matrix.parameter)
        self.reports.append(
            LayerReport(
                name=name,
                block=block,
                kind=name.rpartition(".")[2],
                shape=packed.shape,
                sparsity=1.0 - int(residual_mask(packed).sum()) / weight_OI.numel(),
                bits=layer.quantized.bits if layer.quantized is not None else None,
                rank=layer.factors.rank if layer.factors is not None else None,
                format=packed.format,
                bytes=packed.num_bytes,
                dense_bytes=2 * weight_OI.numel(),
                relative_error=work.error(weight_OI),
                seconds=work.seconds + time.monotonic() - started,
                notes=work.notes,
                steps=work.steps,
            )
        )

    def _report_block(self, block: str, returned: list[Any], wanted: list[Any] | None) -> None:
        """Note how far the block's outputs are from the dense model's, and what training it gave back."""
        report: dict[str, Any] = {"name": block}
        if wanted is not None:
            report["output_error"] = self.ranks.mean(output_errors(returned, wanted))
        if block in self.trained:
            report["reconstruction"] = self.trained[block]
        self.block_reports.append(report)

    def _work(self, name: str) -> Work:
        return Work(name, self.parts.matrix(name).get(self.model))

    def _will_be_packed(self) -> set[str]:
        """Parameters outside of the blocks that get a packed form."""
        chosen = {
            self.parts.token_embedding: self.selected.embedding,
            self.parts.output_head: self.selected.head,
        }
        return {f"{name}.weight" for name, steps in chosen.items() if steps}

    def _round_as_written(self, prefix: str, packed: set[str]) -> None:
        """Let the parameters of a module that stay dense have the values that will be read back."""
        for key, parameter in self.model.get_submodule(prefix).named_parameters():
            name = f"{prefix}.{key}"
            if name not in packed:
                if not bool(torch.isfinite(parameter).all()):
                    raise CheckpointError(
                        f"{name}: NaN or infinite values, which would be written as they are. The file is damaged."
                    )
                parameter.data = parameter.data.to(self.stored_dtypes[name]).float()

    def _write_dense(self, prefix: str) -> None:
        """Write the tensors of a module that were not packed, as the parent stores them."""
        for key, tensor in self.model.get_submodule(prefix).state_dict().items():
            name = f"{prefix}.{key}"
            if name not in self.written:
                self.written.add(name)
                self.writer.add({name: tensor.to(self.stored_dtypes[name])})

    def tie(self) -> None:
        """Make tied parameters outside of the blocks one tensor again, after one of them was replaced."""
        for copy, original in self.parts.tied:
            copy_module, _, copy_name = copy.rpartition(".")
            module, _, name = original.rpartition(".")
            setattr(
                self.model.get_submodule(copy_module),
                copy_name,
                getattr(self.model.get_submodule(module), name),
            )


def _twin(module: nn.Module) -> nn.Module:
    """A copy with parameters of its own, whose values are shared until one of the two gets others."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    shared |= {id(each): nn.Parameter(each.data, each.requires_grad) for each in module.parameters()}
    return deepcopy(module, shared)


def _modules_outside_blocks(model: nn.Module, blocks: tuple[str, ...]) -> list[str]:
    """Names of the modules that hold parameters or buffers themselves and lie in no block."""
    inside = tuple(block + "." for block in blocks)
    return [
        name
        for name, module in model.named_modules()
        if name
        and name not in blocks
        and not name.startswith(inside)
        and (list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)))
    ]
