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

import datetime
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import gossamer
from gossamer.calibration.batches import model_batches
from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.pairs import Seen, observe_pairs, run_dense, stages
from gossamer.calibration.statistics import Gram, Moments, Statistic, to_collect
from gossamer.calibration_text import Progress, calibration_samples, fitting_length
from gossamer.checkpoint.manifest import FORMAT_VERSION
from gossamer.checkpoint.quantizer import quantization_config
from gossamer.checkpoint.quiet import quiet
from gossamer.checkpoint.side_files import copy_side_files
from gossamer.checkpoint.sizes import by_part, parent_bytes
from gossamer.checkpoint.source import Source
from gossamer.checkpoint.writer import FolderWriter, disk_errors
from gossamer.errors import CalibrationError, GossamerError, RunError
from gossamer.formats.choose import pack
from gossamer.formats.low_rank import residual_mask
from gossamer.methods.magnitude import GlobalThreshold
from gossamer.plan import Steps, select, stored_dtypes
from gossamer.recipe import METHODS, Recipe, Step
from gossamer.training.reconstruct import reconstruct, token_errors
from gossamer.work import LayerReport, Phase, Work, phases

RELOAD_TOLERANCE = 1e-3
"""Largest difference of outputs after loading, relative to the largest output (at least 1)."""


def output_error(returned: list[Any], wanted: list[Any]) -> float:
    """Mean over tokens of |block(x) - wanted|^2 / |wanted|^2."""
    errors = [token_errors(*pair).flatten() for pair in zip(returned, wanted, strict=True)]
    return float(torch.cat(errors).mean())


class Run:
    """One run of `compress`: what it reads, and what it has written so far."""

    def __init__(
        self, source: Source, recipe: Recipe, layers: str | None, writer: FolderWriter, progress: Progress
    ) -> None:
        self.selected = select(source, recipe, layers)
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

    def calibrate(self, text: str | None, length_given: bool) -> None:
        """Get the batches that the model will see; where nothing is to be observed, one short random one."""
        self.thresholds = _global_thresholds(self.source, self.selected.linears, self.progress)
        steps = [step for chosen in self.selected.linears.values() for step in chosen]
        if any(step.needs_text for step in (*steps, *self.selected.head)):
            recipe = fitting_length(self.recipe, self.model, length_given, self.notes)
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
        self._tie()
        self.batches = model_batches(self.model, self.ids_NL, self.notes)
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
        self._tie()
        originals = dict(self.parts.tied)
        owner = originals.get(f"{name}.weight", f"{name}.weight")
        for copy, original in self.parts.tied:
            module = copy.removesuffix(".weight")
            if original == owner and copy.endswith(".weight") and module != name:
                self.tied[module] = name
        if owner != f"{name}.weight":
            self.tied[owner.removesuffix(".weight")] = name
            self.written.add(owner)

    def blocks(self) -> None:
        """The loop: for each block observe, apply, run, write."""
        done, total = 0, len(self.parts.blocks)
        for stack in self.parts.stacks:
            for name in stack:
                self.progress("blocks", done, total)
                self.model.set_submodule(name, self.source.materialise(name))
                wanted = self._dense_returns(name)
                steps = {
                    linear: self.selected.linears[linear]
                    for linear in self.parts.linears(name)
                    if linear in self.selected.linears
                }
                self.work = {linear: self._work(linear) for linear in steps}
                for phase in phases(steps):
                    self._apply_phase(name, done, phase, wanted)
                self._round_as_written(name, self.written)
                returned = self.runner.run(name)
                self._report_block(name, returned, wanted)
                self.runner.finish(name, returned, stack)
                self._write_dense(name)
                self.source.release(name)
                if self.dense is not None and wanted is not None:
                    self.dense.finish(name, wanted, stack)
                    self.dense.model.set_submodule(name, self.source.model.get_submodule(name))
                    if stack is self.parts.stacks[-1]:
                        self._forget_dense_embedding()
                done += 1
        self.progress("blocks", total, total)

    def head(self) -> None:
        """Compress an untied head on what it will really see, and measure the outputs of the compressed model."""
        name = self.parts.output_head
        if name is not None and self.selected.head:
            wanted = self._wanted({name: self.selected.head})
            with observed(wanted) as statistics:
                for _ in self.runner.outputs() if wanted else ():
                    pass
            work = self._work(name)
            self._apply(work, self.selected.head, statistics.get(name))
            self._pack(work, None)
        self.measured = first_tensor(next(self.runner.outputs())).float()

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
        return self._manifest(self._check_reload())

    def _dense_runner(self) -> BlockRunner:
        """A second model that stays dense; it shares what lies outside the blocks, but for the token embedding."""
        model = self.source.reader.load()
        model.config.use_cache = False
        for name in self.outside:
            module = self.model.get_submodule(name)
            shared = () if name == self.parts.token_embedding else (*module.parameters(), *module.buffers())
            model.set_submodule(name, deepcopy(module, {id(tensor): tensor for tensor in shared}))
        return BlockRunner(model, self.batches)

    def _dense_returns(self, block: str) -> list[Any] | None:
        """Put the block into the dense model and return what it returns there; None if nobody will ask."""
        if self.dense is None:
            return None
        self.dense.model.set_submodule(block, self.source.materialise(block))
        returned, self.dense_seen = run_dense(self.dense, block, self.parts.linears(block))
        return returned

    def _forget_dense_embedding(self) -> None:
        """Once a dense block is finished, its outputs stand for the embedding's: ours serves in its place."""
        if self.dense is not None and self.parts.token_embedding is not None:
            ours = self.model.get_submodule(self.parts.token_embedding)
            self.dense.model.set_submodule(self.parts.token_embedding, ours)

    def _apply_phase(self, block: str, number: int, phase: Phase, wanted: list[Any] | None) -> None:
        """Apply the steps of each linear, then train the block; what runs later in it sees the earlier ones done."""
        for stage in self._stages(block, phase.linears):
            statistics = self._observe(block, {name: phase.linears[name] for name in stage})
            for name in stage:
                self._apply(self.work[name], phase.linears[name], statistics.get(name))
        for settings, names in phase.trained.items():
            masks = {name: self.work[name].mask_for(self.model.get_submodule(name)) for name in names}
            assert wanted is not None
            self.progress(f"reconstructing {block}", 0, 1)
            gain = reconstruct(self.runner, block, wanted, masks, settings)
            self.trained.setdefault(block, []).append(asdict(gain))
            for name in names:
                self.work[name].take(self.model.get_submodule(name))
        for name in phase.last:
            self._pack(self.work.pop(name), number)

    def _stages(self, block: str, linears: Mapping[str, Steps]) -> list[list[str]]:
        """The linears to be compressed together; one after the other where each is to see the earlier ones."""
        if not self.aims or not self._wanted(linears):
            return [list(linears)]
        return stages(self.runner, block, list(linears))

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
        for linear in wanted:
            if linear not in statistics:
                raise CalibrationError(
                    f"{linear}: no calibration token ever reached it. Give more text, or `skip` it."
                )
        return statistics

    def _apply(self, work: Work, steps: Steps, statistic: Statistic | None) -> None:
        """Apply the steps to one matrix and put the result in its place."""
        started = time.monotonic()
        try:
            if isinstance(statistic, Moments):
                work.aim(statistic)
            for step in steps:
                given = self.thresholds.get(step, statistic if step.needs is not None else None)
                work.layer = METHODS[step.method].apply(work.layer, given, step.settings, work.notes)
        except GossamerError as error:
            raise type(error)(f"{work.name}: {error}") from error
        work.statistic = statistic
        work.seconds += time.monotonic() - started
        work.put(self.model.get_submodule(work.name), work.layer.whole_OI)

    def _pack(self, work: Work, block: int | None) -> None:
        """Hand the packed form of one matrix to the writer, and put the values that it has in its place."""
        started, name, layer = time.monotonic(), work.name, work.layer
        dtype = self.stored_dtypes[f"{name}.weight"]
        packed = pack(layer.weight_OI, layer.mask_OI, layer.quantized, dtype, layer.factors)
        weight_OI = packed.unpack()
        work.put(self.model.get_submodule(name), weight_OI)
        self.packed[name] = packed.meta()
        self.writer.add({f"{name}.{key}": tensor for key, tensor in packed.tensors().items()})
        self.written.add(f"{name}.weight")
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
            )
        )

    def _report_block(self, block: str, returned: list[Any], wanted: list[Any] | None) -> None:
        """Note how far the block's outputs are from the dense model's, and what training it gave back."""
        report: dict[str, Any] = {"name": block}
        if wanted is not None:
            report["output_error"] = output_error(returned, wanted)
        if block in self.trained:
            report["reconstruction"] = self.trained[block]
        self.block_reports.append(report)

    def _work(self, name: str) -> Work:
        module = self.model.get_submodule(name)
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        return Work(name, weight.detach().contiguous())

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
                parameter.data = parameter.data.to(self.stored_dtypes[name]).float()

    def _write_dense(self, prefix: str) -> None:
        """Write the tensors of a module that were not packed, as the parent stores them."""
        for key, tensor in self.model.get_submodule(prefix).state_dict().items():
            name = f"{prefix}.{key}"
            if name not in self.written:
                self.written.add(name)
                self.writer.add({name: tensor.to(self.stored_dtypes[name])})

    def _tie(self) -> None:
        """Make tied parameters outside of the blocks one tensor again, after one of them was replaced."""
        for copy, original in self.parts.tied:
            copy_module, _, copy_name = copy.rpartition(".")
            module, _, name = original.rpartition(".")
            setattr(
                self.model.get_submodule(copy_module),
                copy_name,
                getattr(self.model.get_submodule(module), name),
            )

    def _check_reload(self) -> float:
        """Load the folder as a user will; return the largest difference of its outputs to those measured."""
        self.progress("loading the result as a check", 0, 1)
        with quiet():
            loaded = type(self.model).from_pretrained(self.writer.folder)
        with torch.inference_mode():
            outputs = first_tensor(loaded(**self.batches[0])).float()
        difference = float((outputs - self.measured).abs().max())
        if not difference <= RELOAD_TOLERANCE * max(1.0, float(self.measured.abs().max())):
            raise RunError(
                f"the written folder gives other outputs than were measured at compression (by {difference:.2e}). "
                f"Nothing has been written. This is a defect of Gossamer: please report it."
            )
        self.progress("loading the result as a check", 1, 1)
        return difference

    def _manifest(self, reload_difference: float) -> dict[str, Any]:
        bytes_by_name = {report.name: report.bytes for report in self.reports}
        return {
            "format_version": FORMAT_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "gossamer_version": gossamer.__version__,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "parent": {
                "name": self.source.path.name,
                "sha256": self.source.fingerprint(),
                "size_bytes": self.source.size_bytes,
                "bf16_bytes": 2 * self.source.num_parameters,
            },
            "recipe": self.recipe.to_dict(),
            "recipe_yaml": self.recipe.to_yaml(),
            "calibration": self.calibration,
            "tensors": {
                name: {"meta": meta, "bytes": bytes_by_name[name]} for name, meta in self.packed.items()
            },
            "tied": self.tied,
            "layers": [asdict(report) for report in self.reports],
            "blocks": self.block_reports,
            "size": self._sizes(),
            "reload_max_difference": reload_difference,
            "notes": self.notes,
            "measured": {},
        }

    def _sizes(self) -> dict[str, Any]:
        files = sum(file.stat().st_size for file in self.writer.folder.rglob("*") if file.is_file())
        return {
            "weights_bytes": sum(self.writer.tensor_bytes.values()),
            "total_bytes": files,
            "by_part": by_part(self.writer.tensor_bytes, self.parts.norms),
            "parent_by_part": parent_bytes(self.source.reader.skeleton, self.parts.norms),
        }


def _global_thresholds(
    source: Source, linears: dict[str, tuple[Step, ...]], progress: Progress
) -> dict[Step, GlobalThreshold]:
    """One threshold over all layers of each step with `scope: global`, in two readings of the weights."""
    thresholds: dict[Step, GlobalThreshold] = {}
    for steps in linears.values():
        for step in steps[:1]:
            if getattr(step.settings, "scope", None) == "global":
                thresholds[step] = GlobalThreshold(step.settings.share)  # type: ignore[attr-defined]
    blocks = source.architecture.blocks if thresholds else ()
    for reading in range(2):
        for number, block in enumerate(blocks):
            progress("finding the global threshold", reading * len(blocks) + number, 2 * len(blocks))
            module = source.materialise(block)
            for name in source.architecture.linears(block):
                for step in linears.get(name, ())[:1]:
                    if step in thresholds:
                        weight = module.get_submodule(name.removeprefix(block + ".")).get_parameter("weight")
                        thresholds[step].update(weight.detach())
        for threshold in thresholds.values() if reading == 0 else ():
            threshold.refine()
    return thresholds


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


def first_tensor(outputs: Any) -> Tensor:
    """The main output of a model: logits, or the last hidden state of a bare encoder."""
    value = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    assert isinstance(value, Tensor)
    return value
