"""Making a student of a folder: which of its parameters are trained, and what takes their places in the model."""

from collections import Counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gossamer.checkpoint.architecture import Architecture
from gossamer.checkpoint.matrix import Matrix
from gossamer.checkpoint.read.huggingface import FolderReader
from gossamer.checkpoint.source import Source
from gossamer.formats.low_rank import LowRankWeight
from gossamer.formats.weight import PackedWeight
from gossamer.layers.embedding import PackedEmbedding
from gossamer.layers.linear import SparseLinear
from gossamer.layers.packed_module import PackedModule
from gossamer.layers.replace import replace_module
from gossamer.layers.step_threads import all_threads
from gossamer.training.adapter import Adapter
from gossamer.training.kept import FloatWeight
from gossamer.training.matrix import LEFT, RIGHT, TRAINED_FORMATS, WHOLE, FixedWeight, TrainedMatrix, Weight
from gossamer.training.modules import StudentEmbedding, StudentLinear
from gossamer.training.places import places_in
from gossamer.training.plain import PlainWeight
from gossamer.training.shown import kind_of
from gossamer.training.student import Mode, Student

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
ZEROS_WORTH_KEEPING = 0.01
"""Share of zeros from which a matrix that is stored dense counts as pruned."""


def enrol(
    source: Source, mode: Mode, *, embeddings: bool, rank: int, seed: int, moves: bool = False
) -> Student:
    """Return the student of a compressed or a dense folder.

    Args:
        mode: all kept weights; adapters of `rank` on them; or norms and biases alone, which the others train too.
        embeddings: train the token embedding and the output head as well. seed: of the adapters.
        moves: zeros may move, in matrices whose form allows it.

    Raises UsageError for an encoder-decoder.
    """
    kind_of(source.reader.skeleton)
    model = source.model if source.kind == "gossamer" else source.load_dense(torch.float32)
    model.config.use_cache = False
    student = Student(model.eval())
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(False)
    enrolment = _Enrolment(source, student, mode, embeddings, moves)
    enrolment.packed()
    all_threads(model)
    enrolment.dense()
    enrolment.plain()
    if mode == "lora":
        _adapt(student, rank, seed)
    student.notes += enrolment.notes()
    return student


class _Enrolment:
    """One pass over a model."""

    def __init__(self, source: Source, student: Student, mode: Mode, embeddings: bool, moves: bool) -> None:
        self.source, self.student, self.mode, self.moves = source, student, mode, moves
        self.model: PreTrainedModel = student.model
        self.architecture: Architecture = source.architecture
        tied = {name.removesuffix(".weight") for pair in self.architecture.tied for name in pair}
        ends = {*self.architecture.embeddings, self.architecture.output_head, *tied}
        self.excluded = set() if embeddings else ends
        self.ends_left_out = 0
        self.others_left_out: list[str] = []

    def packed(self) -> None:
        """Take the packed modules apart; those that are not trained become matrices that stay."""
        held: dict[int, Weight] = {}
        for name, module in list(self.model.named_modules()):
            if isinstance(module, PackedModule) and module.meta is not None:
                packed = module.packed
                parts = self._parts(name, packed)
                held[id(module)] = parts.get(WHOLE, FixedWeight(torch.empty(0)))
                replace_module(self.model, name, _module(module, parts))
        for name, module in list(self.model.named_modules()):
            if isinstance(module, SparseLinear):
                source = held[id(module.weight_source())]
                replace_module(self.model, name, StudentLinear({WHOLE: source}, module.bias))

    def _parts(self, name: str, packed: PackedWeight) -> dict[str, Weight]:
        if self._trains(name, packed.shape[0] * packed.shape[1]):
            formats = {each.format for each in _whole_parts(packed)}
            if formats <= set(TRAINED_FORMATS):
                trained = TrainedMatrix.of(name, packed, self.moves)
                self.student.packed[name] = trained
                return dict(trained.parts)
            self.others_left_out.append(f"{name} ({', '.join(sorted(formats))})")
        if isinstance(packed, LowRankWeight):
            return {part: FixedWeight(each.unpack()) for part, each in packed.parts().items()}
        return {WHOLE: FixedWeight(packed.unpack())}

    def dense(self) -> None:
        """Take over the linears, and with the embeddings the table of tokens, that are stored as they are."""
        inside = {name for block in self.architecture.blocks for name in self.architecture.linears(block)}
        token = self.architecture.token_embedding
        names = [*([] if token is None else [token]), *self.architecture.all_linears]
        held: dict[int, FloatWeight] = {}
        originals = dict(self.architecture.tied)
        for name in names:
            module = self.model.get_submodule(name)
            parameter = module._parameters.get("weight")
            if parameter is None or not isinstance(parameter, nn.Parameter):
                continue
            if id(parameter) not in held:
                if not self._trains(name, parameter.numel()):
                    continue
                matrix = self.architecture.matrix(name)
                weight = self._dense_weight(matrix, name in inside)
                held[id(parameter)] = weight
                original = originals.get(matrix.parameter, matrix.parameter)
                self.student.dense[original.removesuffix(".weight")] = (matrix, weight)
            replace_module(self.model, name, _dense_module(module, held[id(parameter)]))

    def _dense_weight(self, matrix: Matrix, may_be_pruned: bool) -> FloatWeight:
        weight_OI = matrix.get(self.model)
        mask_OI = weight_OI != 0
        removed = 1 - float(mask_OI.float().mean())
        if not (may_be_pruned and removed >= ZEROS_WORTH_KEEPING):
            mask_OI = torch.ones_like(mask_OI)
        places = places_in(mask_OI) if self.moves and not mask_OI.all() else None
        entries_OI = mask_OI if places is None else torch.ones_like(mask_OI)
        weight = FloatWeight(weight_OI, entries_OI, stored_dtype(self.source, matrix.parameter))
        if places is not None:
            weight.let_move(places, mask_OI)
        return weight

    def plain(self) -> None:
        """Train norms and biases, and with all weights what else is in the blocks, or a table of positions."""
        blocks = tuple(f"{name}." for name in self.architecture.blocks)
        tables = () if self.excluded else tuple(f"{name}." for name in self.architecture.embeddings)
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 1 or (self.mode == "all" and name.startswith((*blocks, *tables))):
                self.student.plain[name] = PlainWeight(parameter, stored_dtype(self.source, name))
            elif name.startswith(blocks) and self.mode == "lora":
                self.others_left_out.append(name)

    def _trains(self, name: str, num_weights: int) -> bool:
        if name in self.excluded:
            self.ends_left_out += num_weights
        return self.mode != "norms" and name not in self.excluded

    def notes(self) -> list[str]:
        """Say what is not trained."""
        notes = []
        if self.mode == "norms":
            notes.append("norms and biases are trained, and no matrix")
        elif self.ends_left_out:
            share = self.ends_left_out / self.source.num_parameters
            notes.append(
                f"embeddings and output head ({share:.1%} of the weights) are not trained: --embeddings does"
            )
        if self.others_left_out and self.mode != "norms":
            first, more = self.others_left_out[0], len(self.others_left_out) - 1
            notes.append(f"NOT TRAINED: {first}{f' and {more} more' if more else ''}")
        return notes + self._notes_on_zeros() + self._notes_on_places()

    def _notes_on_places(self) -> list[str]:
        still = [
            name
            for name, weight in self.student.weights()
            if weight.moving is None and weight.num_kept() < weight.working_OI.numel()
        ]
        if not self.moves:
            return []
        moving = (weight.moving for _name, weight in self.student.weights())
        counts = Counter(each.places.pattern for each in moving if each is not None and each.places.pattern)
        notes = [f"zeros of {count} matrices move within windows of {m}: N:M" for m, count in counts.items()]
        if still:
            more = f" and {len(still) - 1} more" if len(still) > 1 else ""
            notes.append(f"ZEROS DO NOT MOVE in {still[0]}{more}: their form or pattern has no places for it")
        return notes

    def _notes_on_zeros(self) -> list[str]:
        if self.source.kind == "gossamer" or self.mode == "norms":
            return []
        pruned = [
            name
            for name, (_matrix, weight) in self.student.dense.items()
            if weight.index_n is not None or weight.moving is not None
        ]
        moving = sum(self.student.dense[name][1].moving is not None for name in pruned)
        kept = (
            f"zeros of {moving or len(pruned)} matrices {'may move' if moving else 'stay zero'}"
            if pruned
            else "no zeros to keep: all its weights are trained"
        )
        return [f"{self.source.path.name} is stored dense: {kept}"]


def stored_dtype(source: Source, name: str) -> torch.dtype:
    """Return the type in which a parameter is stored."""
    reader = source.reader
    if isinstance(reader, FolderReader) and name in reader.folder.tensors:
        return DTYPES.get(reader.folder.tensors[name].dtype, torch.float32)
    found: Tensor = source.model.get_parameter(name)
    return found.dtype


def _whole_parts(packed: PackedWeight) -> list[PackedWeight]:
    return list(packed.parts().values()) if isinstance(packed, LowRankWeight) else [packed]


def _module(module: PackedModule, parts: dict[str, Weight]) -> nn.Module:
    if isinstance(module, PackedEmbedding):
        return StudentEmbedding(parts[WHOLE], module.embed_scale, module.padding_idx)
    return StudentLinear(parts, module._parameters["bias"])


def _dense_module(module: nn.Module, weight: FloatWeight) -> nn.Module:
    if isinstance(module, nn.Embedding):
        scale = float(getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1.0)))
        return StudentEmbedding(weight, scale, module.padding_idx)
    return StudentLinear({WHOLE: weight}, getattr(module, "bias", None))


def _adapt(student: Student, rank: int, seed: int) -> None:
    """Give every matrix that is trained an adapter; factors are low-rank themselves and are trained as they are."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in student.weights():
        if name.rpartition("/")[2] not in (LEFT, RIGHT):
            weight.adapter = Adapter(weight.shape, rank, generator)
