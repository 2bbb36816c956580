"""The main table of a report: every figure of the dense parents and the compressed models side by side."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gossamer.report.record import ABSENT, TIMES, layers, look, number, plain, seconds, share, size, text

EVALUATION, BENCHMARK = ("measured", "evaluation"), ("measured", "benchmark")
Read = Callable[[object], float | None]
Show = Callable[[float | None], str | None]
Compare = Callable[[object, float, float], str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure; `change` compares it with the dense parent's. `value` None: not measured."""

    value: str | None
    change: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    label: str
    unit: str
    cells: list[Cell]
    start: bool = False
    """First of its group."""


@dataclass(frozen=True, slots=True)
class Column:
    """A model: the manifest it stands in, and whether it is the dense parent there."""

    name: str
    manifest: object
    dense: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The whole table, and what has to be said about it."""

    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    noisy: bool = False
    """A benchmark ran on a busy machine, so that its speeds must not be quoted."""


def make_table(manifests: Sequence[object], names: Sequence[str]) -> Table:
    """Return the table of these compressed models and their parents (each parent once, before its models)."""
    columns: list[Column] = []
    seen: list[str] = []
    one_parent = len({parent_key(manifest) for manifest in manifests}) == 1
    for manifest, name in zip(manifests, names, strict=True):
        parent = parent_key(manifest)
        if parent not in seen:
            seen.append(parent)
            dense_name = "dense parent" if one_parent else f"{parent_name(manifest)}, dense"
            columns.append(Column(dense_name, _best_parent(manifests, parent), True))
        position = 1 + max(i for i, each in enumerate(columns) if parent_key(each.manifest) == parent)
        columns.insert(position, Column(name, manifest, False))
    noisy = any(look(each, *BENCHMARK, "noisy") is True for each in manifests)
    return Table(columns, [_row(line, columns) for line in _LINES], _remarks(manifests), noisy)


def parent_key(manifest: object) -> str:
    """Return what tells parents apart: the hash of the weights, else the name."""
    return text(manifest, "parent", "sha256") or text(manifest, "parent", "name") or "?"


def parent_name(manifest: object) -> str:
    """Return the name of the dense parent."""
    return text(manifest, "parent", "name") or "unnamed model"


def _best_parent(manifests: Sequence[object], parent: str) -> object:
    """Return the manifest that says most about this parent: the one with the most measurements."""
    own = [each for each in manifests if parent_key(each) == parent]

    def said(manifest: object) -> int:
        measured = look(manifest, "measured")
        if not look(manifest, "parent"):
            return -1
        return len(measured) if isinstance(measured, Mapping) else 0

    return max(own, key=said)


def parameters(manifest: object) -> float | None:
    """Return the number of parameters of the parent."""
    num_bytes = number(manifest, "parent", "bf16_bytes")
    return num_bytes / 2 if num_bytes else None


def sparsity(manifest: object) -> float | None:
    """Return the share of zeros in the compressed matrices, weighted by their sizes."""
    known = [each for each in layers(manifest) if each.sparsity is not None and each.num_weights]
    total = sum(each.num_weights for each in known)
    return sum((each.sparsity or 0.0) * each.num_weights for each in known) / total if total else None


def bits_per_weight(manifest: object) -> float | None:
    """Return the bits of all stored weights / the parent's parameters."""
    num_bytes, count = number(manifest, "size", "weights_bytes"), parameters(manifest)
    return 8 * num_bytes / count if num_bytes is not None and count else None


# ---- how two figures compare ------------------------------------------------------------------------------


def times(more: str, less: str) -> Compare:
    """Say how many times more or less: 2.5x faster."""

    def compare(_manifest: object, value: float, dense: float) -> str:
        if value <= 0 or dense <= 0:
            return ""
        ratio = value / dense
        return f"{plain(ratio)}{TIMES} {more}" if ratio >= 1 else f"{plain(1 / ratio)}{TIMES} {less}"

    return compare


def measured_ratio(name: str, more: str, less: str) -> Compare:
    """Say the ratio as the benchmark found it in paired rounds, with its spread."""

    def compare(manifest: object, value: float, dense: float) -> str:
        found = look(manifest, *BENCHMARK, "ratios", name)
        ratio, low, high = number(found, "ratio"), number(found, "low"), number(found, "high")
        if ratio is None or low is None or high is None or min(ratio, low, high) <= 0:
            return times(more, less)(manifest, value, dense)
        if ratio < 1:
            ratio, low, high, more_or_less = 1 / ratio, 1 / high, 1 / low, less
        else:
            more_or_less = more
        return f"{plain(ratio)}{TIMES} {more_or_less} ({plain(low)} to {plain(high)})"

    return compare


def perplexity_ratio(manifest: object, value: float, dense: float) -> str:
    """Say the ratio with its confidence interval."""
    if dense <= 0:
        return ""
    interval = look(manifest, *EVALUATION, "perplexity_ratio_ci95")
    shown = f"{TIMES}{plain(value / dense)}"
    if isinstance(interval, list | tuple) and len(interval) == 2:
        low, high = number({"v": interval[0]}, "v"), number({"v": interval[1]}, "v")
        if low is not None and high is not None:
            shown += f" (95 %: {plain(low)} to {plain(high)})"
    return shown


def difference(_manifest: object, value: float, dense: float) -> str:
    """Say the ratio of two figures."""
    return f"{TIMES}{plain(value / dense)}" if dense > 0 else ""


# ---- the lines --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    unit: str
    own: Read
    dense: Read | None
    show: Show
    compare: Compare | None = None
    start: bool = False


def _of(*path: str) -> Read:
    return lambda manifest: number(manifest, *path)


def _evaluated(key: str) -> Read:
    return _of(*EVALUATION, key)


def _speed(
    label: str, unit: str, key: str, show: Show, compare: Compare | None, start: bool = False
) -> _Line:
    own, dense = _of(*BENCHMARK, key), _of(*BENCHMARK, "against", key)
    return _Line(label, unit, own, dense, show, compare, start)


def _dense_bits(manifest: object) -> float | None:
    return 16.0 if parameters(manifest) else None


_LINES = (
    _Line(
        "Size on disk",
        "dense counted as bfloat16",
        _of("size", "total_bytes"),
        _of("parent", "bf16_bytes"),
        size,
        times("larger", "smaller"),
    ),
    _Line("Bits per weight", "all tensors", bits_per_weight, _dense_bits, plain),
    _Line("Sparsity", "zeros in compressed matrices", sparsity, None, share),
    _Line(
        "Perplexity",
        "lower is better",
        _evaluated("perplexity"),
        _evaluated("parent_perplexity"),
        lambda value: plain(value, 4),
        perplexity_ratio,
        start=True,
    ),
    _Line(
        "Bits per byte",
        "of text",
        _evaluated("bits_per_byte"),
        _evaluated("parent_bits_per_byte"),
        lambda value: plain(value, 4),
        difference,
    ),
    _Line("KL divergence", "from the parent, nats a token", _evaluated("kl_mean"), None, plain),
    _Line("Top-1 agreement", "with the parent", _evaluated("top1_agreement"), None, share),
    _speed(
        "Decode", "tokens/s", "decode_tokens_per_s", plain, measured_ratio("decode", "faster", "slower"), True
    ),
    _speed(
        "Prefill", "tokens/s", "prefill_tokens_per_s", plain, measured_ratio("prefill", "faster", "slower")
    ),
    _speed("Load time", "", "load_seconds", seconds, measured_ratio("load", "longer", "shorter")),
    _speed(
        "Peak memory",
        "of the whole process",
        "peak_memory_bytes",
        size,
        measured_ratio("memory", "more", "less"),
    ),
    _speed("Weights read for a token", "", "weight_bytes_per_token", size, times("more", "less")),
    _speed("Share of the roofline", "traffic / read bandwidth", "roofline_share", share, None),
)
KNOWN = frozenset(
    {"perplexity", "parent_perplexity", "bits_per_byte", "parent_bits_per_byte", "kl_mean", "top1_agreement",
     "tokens", "size_bytes", "parent_size_bytes", "perplexity_ratio"}
)  # fmt: skip
"""Keys of the evaluation that stand in the table, or would only repeat it."""


def _row(line: _Line, columns: Sequence[Column]) -> Row:
    dense_of = {parent_key(column.manifest): column.manifest for column in columns if column.dense}
    cells: list[Cell] = []
    for column in columns:
        if column.dense:
            cells.append(Cell(line.show(line.dense(column.manifest)) if line.dense is not None else ABSENT))
            continue
        value = line.own(column.manifest)
        change = None
        if value is not None and line.compare is not None and line.dense is not None:
            dense = line.dense(column.manifest)
            if dense is None:
                dense = line.dense(dense_of[parent_key(column.manifest)])
            if dense is not None:
                change = line.compare(column.manifest, value, dense) or None
        cells.append(Cell(line.show(value), change))
    return Row(line.label, line.unit, cells, line.start)


def _remarks(manifests: Sequence[object]) -> list[str]:
    """What a reader must know to judge the table: signature and conditions."""
    remarks = []
    signatures = _distinct(text(each, *EVALUATION, "perplexity_signature") for each in manifests)
    if len(signatures) == 1:
        remarks.append(f"Perplexity: {signatures[0]}.")
    elif signatures:
        remarks.append("The perplexities were measured in different ways and must not be compared:")
        remarks += signatures
    conditions = _distinct(_conditions(each) for each in manifests)
    remarks += [f"Speed: {each}." for each in conditions]
    if len(conditions) > 1:
        remarks.append("The speeds were measured in different runs; compare each with its own parent only.")
    return remarks


def _conditions(manifest: object) -> str | None:
    threads = number(manifest, *BENCHMARK, "threads")
    if threads is None:
        return None
    parts = [f"{threads:g} thread{'' if threads == 1 else 's'}"]
    for key, words in (("prompt_tokens", "tokens of prompt"), ("tokens", "decoded"), ("repeats", "rounds")):
        found = number(manifest, *BENCHMARK, key)
        if found is not None:
            parts.append(f"{found:g} {words}")
    bandwidth = plain(number(manifest, *BENCHMARK, "read_bandwidth_gb_per_s"))
    if bandwidth is not None:
        parts.append(f"memory read at {bandwidth} GB/s")
    return ", ".join([*parts, *filter(None, [text(manifest, *BENCHMARK, "cpu")])])


def _distinct(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value is not None))
