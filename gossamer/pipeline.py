"""The loop: block by block, observe, compress, go on with what the compressed block really returns, write.

    for block in blocks:
        observe   forward 1: the inputs of each linear, with everything before it already compressed
        apply     the steps of the recipe, linear by linear
        run       forward 2: what the next block will really see
        write     the packed weights

One block at a time is in memory in float32; the rest of the model stays mapped from its files.
"""

import datetime
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import gossamer
from gossamer.calibration.batches import model_batches, position_limit
from gossamer.calibration.observe import BlockRunner, observed
from gossamer.calibration.statistics import Gram, Statistic, to_collect
from gossamer.checkpoint.manifest import FORMAT_VERSION, MANIFEST_NAME
from gossamer.checkpoint.quantizer import quantization_config
from gossamer.checkpoint.quiet import quiet
from gossamer.checkpoint.side_files import copy_side_files
from gossamer.checkpoint.source import Source, open_model
from gossamer.checkpoint.writer import FolderWriter, check_target, disk_errors
from gossamer.data.deduplicate import deduplicate
from gossamer.data.samples import fingerprint, sample, self_samples
from gossamer.data.sources import read_documents
from gossamer.data.tokens import tokenize
from gossamer.errors import CalibrationError, GossamerError, RunError, UsageError
from gossamer.evaluation.memory import PeakMemory
from gossamer.formats.choose import pack
from gossamer.methods.error import relative_output_error
from gossamer.methods.layer_weight import LayerWeight
from gossamer.methods.magnitude import GlobalThreshold
from gossamer.plan import Plan, make_plan, select, stored_dtypes
from gossamer.recipe import METHODS, Recipe, Step, load_recipe

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""
RELOAD_TOLERANCE = 1e-3
"""Largest difference of outputs after loading, relative to the largest output (at least 1)."""


def _silent(_what: str, _done: int, _total: int) -> None:
    return


@dataclass(frozen=True)
class LayerReport:
    """What became of one weight matrix."""

    name: str
    block: int | None
    kind: str
    shape: tuple[int, int]
    sparsity: float
    bits: int | None
    format: str
    bytes: int
    dense_bytes: int
    """In bfloat16."""
    relative_error: float | None
    """Share of the output's energy that is lost, on the calibration inputs; of the weights' where there are none."""
    seconds: float
    notes: list[str]


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
    progress: Progress = _silent,
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
        progress: called as the work goes on.

    Raises:
        GossamerError: bad model, recipe, text or target; nothing has been written then.
    """
    started = time.monotonic()
    out = Path(out)
    check_target(out, overwrite)
    recipe = with_calibration(load_recipe(recipe), samples, length, seed)
    source = open_model(model)
    check_target(out, overwrite, source.reader.weight_files)
    with PeakMemory() as memory, FolderWriter(out, overwrite) as writer:
        run = _Run(source, recipe, layers, writer, progress)
        run.calibrate(text, length_given=length is not None)
        run.embedding()
        run.blocks()
        run.head()
        run.rest()
        manifest = run.finish()
        manifest["run"] = {
            "seconds": time.monotonic() - started,
            "peak_memory_bytes": memory.peak_anonymous_bytes,
            "peak_resident_bytes": memory.peak_resident_bytes,
            "threads": torch.get_num_threads(),
            "cpu": platform.processor() or platform.machine(),
        }
        writer.add_json(MANIFEST_NAME, manifest)
        writer.commit()
    return Compressed(out, manifest)


def plan(
    model: str | Path,
    recipe: str | Recipe,
    *,
    samples: int | None = None,
    length: int | None = None,
    layers: str | None = None,
) -> Plan:
    """Return what `compress` would do with these arguments, without reading a weight or writing a byte."""
    recipe = with_calibration(load_recipe(recipe), samples, length, None)
    return make_plan(open_model(model), recipe, layers)


def with_calibration(recipe: Recipe, samples: int | None, length: int | None, seed: int | None) -> Recipe:
    """Return the recipe with other calibration settings; None keeps the recipe's."""
    given = {"samples": samples, "length": length, "seed": seed}
    update = {key: value for key, value in given.items() if value is not None}
    for key, smallest in (("samples", 1), ("length", 8)):
        if update.get(key, smallest) < smallest:
            raise UsageError(f"--{key} {update[key]}: expected at least {smallest}.")
    calibration = recipe.calibration.model_copy(update=update)
    return Recipe(recipe.steps, calibration, recipe.skip, recipe.description)


class _Run:
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
        self.written: set[str] = {copy for copy, _original in self.parts.tied}
        self.outside = _modules_outside_blocks(self.model, self.parts.blocks)

    def calibrate(self, text: str | None, length_given: bool) -> None:
        """Get the batches that the model will see; where nothing is to be observed, one short random one."""
        self.thresholds = _global_thresholds(self.source, self.selected.linears, self.progress)
        steps = [step for chosen in self.selected.linears.values() for step in chosen]
        if any(step.needs is not None for step in (*steps, *self.selected.head)):
            recipe = _fitting_length(self.recipe, self.model, length_given, self.notes)
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

    def embedding(self) -> None:
        """Compress the token embedding, and with it every module that is tied to it."""
        name = self.parts.token_embedding
        if not self.selected.embedding or name is None:
            return
        self._compress(name, None, self.selected.embedding, None)
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
                linears = {
                    linear: self.selected.linears[linear]
                    for linear in self.parts.linears(name)
                    if linear in self.selected.linears
                }
                statistics = self._observe(name, linears)
                for linear, steps in linears.items():
                    self._compress(linear, done, steps, statistics.pop(linear, None))
                self._round_as_written(name, self.written)
                self.runner.finish(name, self.runner.run(name), stack)
                self._write_dense(name)
                self.source.release(name)
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
            self._compress(name, None, self.selected.head, statistics.get(name))
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

    def _wanted(self, linears: dict[str, tuple[Step, ...]]) -> dict[str, tuple[nn.Module, type]]:
        """The module and the one statistic that serves all its steps, for those that need any."""
        wanted = {}
        for name, steps in linears.items():
            classes = to_collect(step.needs for step in steps)
            if classes:
                wanted[name] = (self.model.get_submodule(name), classes[0])
        return wanted

    def _observe(self, block: str, linears: dict[str, tuple[Step, ...]]) -> dict[str, Statistic]:
        wanted = self._wanted(linears)
        if not wanted:
            return {}
        with observed(wanted) as statistics:
            self.runner.run(block)
        for linear in wanted:
            if linear not in statistics:
                raise CalibrationError(
                    f"{linear}: no calibration token ever reached it. Give more text, or `skip` it."
                )
        return statistics

    def _compress(
        self, name: str, block: int | None, steps: tuple[Step, ...], statistic: Statistic | None
    ) -> None:
        """Apply the steps to one matrix, put the result in its place and hand the packed form to the writer."""
        started = time.monotonic()
        notes: list[str] = []
        module = self.model.get_submodule(name)
        transposed = isinstance(module, Conv1D)
        dense_OI = (module.weight.T if transposed else module.weight).detach().contiguous()
        layer = LayerWeight(dense_OI)
        for step in steps:
            given = self.thresholds.get(step, statistic if step.needs is not None else None)
            try:
                layer = METHODS[step.method].apply(layer, given, step.settings, notes)
            except GossamerError as error:
                raise type(error)(f"{name}: {error}") from error
        packed = pack(layer.weight_OI, layer.mask_OI, layer.quantized, self.stored_dtypes[f"{name}.weight"])
        weight_OI = packed.unpack()
        new_weight = weight_OI.T.contiguous() if transposed else weight_OI
        module.weight = nn.Parameter(new_weight, requires_grad=False)
        self.packed[name] = packed.meta()
        self.writer.add({f"{name}.{key}": tensor for key, tensor in packed.tensors().items()})
        self.written.add(f"{name}.weight")
        self.reports.append(
            LayerReport(
                name=name,
                block=block,
                kind=name.rpartition(".")[2],
                shape=packed.shape,
                sparsity=1.0 - int(packed.mask().sum()) / dense_OI.numel(),
                bits=layer.quantized.bits if layer.quantized is not None else None,
                format=packed.format,
                bytes=packed.num_bytes,
                dense_bytes=2 * dense_OI.numel(),
                relative_error=_relative_error(dense_OI, weight_OI, statistic),
                seconds=time.monotonic() - started,
                notes=notes,
            )
        )

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
            "size": self._sizes(),
            "reload_max_difference": reload_difference,
            "notes": self.notes,
            "measured": {},
        }

    def _sizes(self) -> dict[str, Any]:
        skeleton = self.source.reader.skeleton
        parent: dict[str, int] = {}
        for name, parameter in skeleton.named_parameters():
            part = _part(name, self.parts.norms)
            parent[part] = parent.get(part, 0) + 2 * parameter.numel()
        own: dict[str, int] = {}
        for name, num_bytes in self.writer.tensor_bytes.items():
            part = _part(name, self.parts.norms)
            own[part] = own.get(part, 0) + num_bytes
        weights = sum(self.writer.tensor_bytes.values())
        files = sum(file.stat().st_size for file in self.writer.folder.rglob("*") if file.is_file())
        return {
            "weights_bytes": weights,
            "total_bytes": files,
            "by_part": own,
            "parent_by_part": parent,
        }


def calibration_samples(
    source: Source, recipe: Recipe, text: str | None, progress: Progress, notes: list[str]
) -> tuple[Tensor, dict[str, Any]]:
    """Return ids_NL to calibrate on, and the record of where they come from."""
    settings = recipe.calibration
    tokenizer = source.tokenizer()
    if tokenizer is None:
        raise UsageError(f"{source.path}: the model has no tokenizer, so no text can be shown to it.")
    progress("reading text", 0, 1)
    if text is None:
        if not source.model.can_generate() or source.model.config.is_encoder_decoder:
            raise UsageError("this model cannot write its own calibration text. Give some with --text.")
        name = "written by the model itself"
        notes.append("calibrated on text that the model wrote itself; real text is better: use --text")
        ids_NL = self_samples(
            source.load_dense(torch.float32), tokenizer, settings.samples, settings.length, settings.seed,
            progress=lambda done, total: progress("writing calibration text", done, total),
        )  # fmt: skip
    else:
        name = Path(text).name
        documents = deduplicate(read_documents(text)).documents
        stream = tokenize(documents, tokenizer, name)
        ids_NL = sample(stream, settings.samples, settings.length, settings.seed)
        _frame(ids_NL, tokenizer)
    progress("reading text", 1, 1)
    record = {
        "source": name,
        "fingerprint": fingerprint(name, ids_NL, settings.model_dump()),
        "num_samples": ids_NL.shape[0],
        "length": ids_NL.shape[1],
        "seed": settings.seed,
        "tokens": ids_NL.numel(),
    }
    return ids_NL, record


def _frame(ids_NL: Tensor, tokenizer: Any) -> None:
    """Put the tokens that an encoder expects at both ends of every window: [CLS] ... [SEP]."""
    if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
        ids_NL[:, 0], ids_NL[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id


def _fitting_length(recipe: Recipe, model: Any, length_given: bool, notes: list[str]) -> Recipe:
    """Shorten the recipe's windows to what the model has positions for; refuse if the user asked for more."""
    limit, length = position_limit(model), recipe.calibration.length
    if limit is None or length <= limit:
        return recipe
    if length_given:
        raise UsageError(f"--length {length}: the model has positions for {limit} tokens only.")
    notes.append(f"calibration windows shortened from {length} to the {limit} tokens that the model can take")
    return with_calibration(recipe, None, limit, None)


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


def _part(name: str, norms: tuple[str, ...]) -> str:
    """Which part of the model a tensor belongs to, for the size breakdown."""
    module = name.rpartition(".")[0]
    lower = name.lower()
    if module in norms:
        return "norms"
    if "attn" in lower or "attention" in lower:
        return "attention"
    if "embed" in lower or lower.startswith(("shared.", "lm_head.", "transformer.wte", "transformer.wpe")):
        return "embeddings"
    if any(component.isdigit() for component in module.split(".")):
        return "mlp"
    return "other"


def first_tensor(outputs: Any) -> Tensor:
    """The main output of a model: logits, or the last hidden state of a bare encoder."""
    value = outputs.logits if hasattr(outputs, "logits") else outputs[0]
    assert isinstance(value, Tensor)
    return value


def _relative_error(dense_OI: Tensor, weight_OI: Tensor, statistic: Statistic | None) -> float | None:
    if isinstance(statistic, Gram):
        return relative_output_error(dense_OI, weight_OI, statistic.value())
    total = float(dense_OI.square().sum())
    return float((dense_OI - weight_OI).square().sum()) / total if total else None
