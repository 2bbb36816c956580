"""What `benchmark` returns: the figures of one or two models, their ratios, and what they were measured on."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process that loads and runs a model; None: not measured."""

    baseline_bytes: int | None = None
    """Before loading."""
    peak_anonymous_bytes: int | None = None
    peak_file_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rounds:
    """Tokens per second of every round that counts; `decode` is empty for an encoder."""

    prefill: list[float]
    decode: list[float]


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """The figures of one model. None = not measured, or (decode) the model does not decode."""

    model: str
    engine: str
    """torch, native or llama.cpp."""
    activations: str
    kind: str
    """decoder, encoder or encoder-decoder."""
    threads: int
    prompt_tokens: int
    tokens: int
    """Decoded in each round."""
    decode_tokens_per_s: float | None
    prefill_tokens_per_s: float
    load_seconds: float | None
    peak_memory_bytes: int | None
    """Largest resident size of a process that loads and runs the model, libraries included."""
    weight_bytes_per_token: int
    read_bandwidth_gb_per_s: float
    """Mean of the probes before and after; 1 GB = 10^9 bytes."""
    read_bandwidth_same_size_gb_per_s: float
    roofline_share: float | None
    memory: Memory
    """Of the process that `peak_memory_bytes` is about."""
    rounds: Rounds


@dataclass(frozen=True, slots=True)
class Ratio:
    """This model / the other one: of the medians, and the smallest and largest of paired rounds."""

    ratio: float
    low: float
    high: float


def paired_ratio(values: Sequence[float], others: Sequence[float]) -> Ratio | None:
    """Return the ratio of the medians, and the smallest and largest of pairs; None if one has no values."""
    if not values or not others:
        return None
    pairs = [value / other for value, other in zip(values, others, strict=True)]
    return Ratio(statistics.median(values) / statistics.median(others), min(pairs), max(pairs))


@dataclass(frozen=True, slots=True)
class Ratios:
    """Decode and prefill: above 1 is faster. Load time and memory: below 1 is less. None: one was not measured."""

    decode: Ratio | None
    prefill: Ratio | None
    load: Ratio | None
    memory: Ratio | None


@dataclass(frozen=True, slots=True)
class ProbedBandwidth:
    """The probe of the memory before and after the rounds; 1 GB = 10^9 bytes."""

    size_bytes: int
    before_gb_per_s: float
    after_gb_per_s: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run of `benchmark`."""

    own: ModelSpeed
    """Of the model that was asked about."""
    against: ModelSpeed | None
    ratios: Ratios | None
    """None without `against`."""
    repeats: int
    loadavg_before: float | None
    loadavg_after: float | None
    others_share: float
    steal_share: float
    noisy: bool
    """Other processes took over 5 % of the time, or other virtual machines over 2 %."""
    cpu: str
    cores: int
    bandwidth: ProbedBandwidth
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored and printed: the model's own figures at the top, the other's in `against`."""
        values = asdict(self)
        return {**values.pop("own"), **values, "ratios": values["ratios"] or {}}
