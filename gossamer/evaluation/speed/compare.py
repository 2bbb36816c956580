"""How fast a model reads a prompt and decodes, beside another model in the same run.

Protocol: both models in one process with the same number of threads and the same prompt; rounds interleaved
A B B A, the first round of each thrown away; medians over the rounds. A ratio is that of the medians; its
spread is the smallest and the largest ratio of paired rounds. Load time and peak memory come from processes
of their own, one for each model and repeat (`load_probe`). Memory bandwidth is probed before and after, and
says what share of the roofline was reached:

    roofline_share = weight_bytes_per_token x decode_tokens_per_s / read_bandwidth

It can exceed 1 when the weights fit in a cache; `read_bandwidth_same_size_gb_per_s` is the bandwidth over a
buffer as large as the weights.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import RunError, UsageError
from gossamer.evaluation.speed.bandwidth import COLD_BYTES, SMALLEST_BYTES, read_bandwidth
from gossamer.evaluation.speed.decode import Round, check_prompt, kind_of, run_round
from gossamer.evaluation.speed.memory import run_isolated
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.evaluation.speed.surroundings import business, cpu_model, noise, num_cores, versions
from gossamer.evaluation.speed.threads import all_threads
from gossamer.evaluation.speed.weight_bytes import weight_bytes_per_token
from gossamer.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured."""

    name: str
    load: Callable[[], nn.Module]
    """Returns the model, ready to run."""
    path: str | None = None
    """What `gossamer.load` takes, for the processes that measure load time and memory; None: not measured."""
    dtype: str = "auto"
    activations: str = "float"
    engine: str = "torch"
    """torch, native or llama.cpp."""


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
    memory: dict[str, int | None] = field(default_factory=dict)
    """baseline_bytes (before loading), peak_anonymous_bytes, peak_file_bytes of that process."""
    rounds: dict[str, list[float]] = field(default_factory=dict)
    """tokens/s of every round: prefill, decode."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """This model / the other one: of the medians, and the smallest and largest of paired rounds."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """One run of `benchmark`."""

    speed: ModelSpeed
    against: ModelSpeed | None
    ratios: dict[str, Ratio | None]
    """decode, prefill (above 1: faster), load, memory (below 1: less); empty without `against`."""
    repeats: int
    loadavg_before: float | None
    loadavg_after: float | None
    others_share: float
    steal_share: float
    noisy: bool
    """Other processes took over 5 % of the time, or other virtual machines over 2 %."""
    cpu: str
    cores: int
    bandwidth: dict[str, float | int]
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values: the model's own figures at the top, the other's in `against`."""
        values = asdict(self)
        return {**values.pop("speed"), **values}


@dataclass(slots=True)
class _Measured:
    """What is gathered about one model while the benchmark runs."""

    subject: Subject
    model: Any
    rounds: list[Round] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)

    def prefill_per_s(self, tokens: int) -> list[float]:
        return [tokens / each.prefill for each in self.rounds]

    def decode_per_s(self, tokens: int) -> list[float]:
        return [tokens / each.decode for each in self.rounds if each.decode is not None]

    def probed(self, name: str) -> list[float]:
        return [each[name] for each in self.probes if each.get(name) is not None]


def benchmark(
    subject: Subject,
    against: Subject | None = None,
    *,
    threads: int | None = None,
    prompt_ids: Sequence[int] | Tensor | None = None,
    prompt_tokens: int = 64,
    tokens: int = 64,
    repeats: int = 5,
    load_repeats: int = 2,
    bandwidth_bytes: int = COLD_BYTES,
    progress: Progress = silent,
) -> BenchmarkReport:
    """Measure a model, and another one beside it.

    Args:
        subject: the model whose figures are wanted.
        against: the model it is compared with, usually the dense parent.
        threads: for torch and for our kernels; default: every core that this process may use.
        prompt_ids: token ids to start from; default: `prompt_tokens` random ones.
        tokens: how many to decode in each round.
        repeats: rounds that count, at least 1; one more is thrown away.
        load_repeats: processes that load each model which has a `path`; 0 leaves load time and memory out.
        bandwidth_bytes: size of the buffer that bandwidth is probed with.

    Raises:
        UsageError: fewer than one thread or repeat; a prompt that the model cannot take.
        RunError: the model's output is not finite, or a process that loads it failed.
    """
    threads = num_cores() if threads is None else threads
    if repeats < 1 or load_repeats < 0:
        raise UsageError(
            f"repeats: expected at least 1 (and load repeats 0), got {repeats} and {load_repeats}"
        )
    measured = [_Measured(each, each.load().eval()) for each in (subject, against) if each is not None]
    prompt = random_prompt(measured[0].model, prompt_tokens) if prompt_ids is None else _as_prompt(prompt_ids)
    for each in measured:
        check_prompt(each.model, prompt, tokens)
    with all_threads(threads):
        before, bandwidth_before = business(), read_bandwidth(threads, bandwidth_bytes)
        _time_rounds(measured, prompt, tokens, repeats, progress)
        after, bandwidth_after = business(), read_bandwidth(threads, bandwidth_bytes)
        gb_per_s = (bandwidth_before.gb_per_s + bandwidth_after.gb_per_s) / 2
        _time_loading(measured, threads, prompt.shape[1], load_repeats, progress)
        speeds = [_speed(each, threads, prompt.shape[1], tokens, gb_per_s) for each in measured]
    return BenchmarkReport(
        speed=speeds[0],
        against=speeds[1] if against is not None else None,
        ratios=_ratios(measured[0], measured[1], prompt.shape[1], tokens) if against is not None else {},
        repeats=repeats,
        loadavg_before=before.loadavg,
        loadavg_after=after.loadavg,
        **noise(before, after),
        cpu=cpu_model(),
        cores=num_cores(),
        bandwidth={
            "size_bytes": bandwidth_before.size_bytes,
            "before_gb_per_s": bandwidth_before.gb_per_s,
            "after_gb_per_s": bandwidth_after.gb_per_s,
        },
        versions=versions(),
    )


def _as_prompt(ids: Sequence[int] | Tensor) -> Tensor:
    """Return ids_1T."""
    return torch.as_tensor(ids, dtype=torch.int64).reshape(1, -1)


def _time_rounds(
    measured: list[_Measured], prompt: Tensor, tokens: int, repeats: int, progress: Progress
) -> None:
    """Run the rounds A B B A A B ..., with one round of each before them that does not count."""
    for number in range(repeats + 1):
        progress("measuring speed", number, repeats + 1)
        for each in measured if number % 2 else reversed(measured):
            result = run_round(each.model, prompt, tokens)
            if number:
                each.rounds.append(result)
    progress("measuring speed", repeats + 1, repeats + 1)


def _time_loading(
    measured: list[_Measured], threads: int, prompt_tokens: int, repeats: int, progress: Progress
) -> None:
    """Load each model in processes of its own. The files are in the page cache by then."""
    for number in range(repeats):
        progress("measuring load time", number, repeats)
        for each in reversed(measured) if number % 2 else measured:
            if each.subject.path is not None:
                each.probes.append(probe_load(each.subject, threads, prompt_tokens))
    if repeats:
        progress("measuring load time", repeats, repeats)


def probe_load(subject: Subject, threads: int, prompt_tokens: int) -> dict[str, Any]:
    """Return what `load_probe` prints about a model. RunError when it fails."""
    assert subject.path is not None
    command = [sys.executable, "-m", "gossamer.evaluation.speed.load_probe", subject.path, subject.dtype]
    command += ["--threads", str(threads), "--prompt-tokens", str(prompt_tokens)]
    command += ["--activations", subject.activations, "--engine", subject.engine]
    lines = run_isolated(command).output.splitlines()
    try:
        figures: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise RunError(f"{subject.path}: the process that loads the model printed no figures") from error
    return figures


def _speed(each: _Measured, threads: int, prompt_tokens: int, tokens: int, gb_per_s: float) -> ModelSpeed:
    decode, prefill = each.decode_per_s(tokens), each.prefill_per_s(prompt_tokens)
    weight_bytes = weight_bytes_per_token(each.model)
    decode_per_s = statistics.median(decode) if decode else None
    peaks = each.probed("peak_memory_bytes")
    loads = each.probed("load_seconds")
    memory_names = ("baseline_bytes", "peak_anonymous_bytes", "peak_file_bytes")
    return ModelSpeed(
        model=each.subject.name,
        engine=each.subject.engine,
        activations=each.subject.activations,
        kind=kind_of(each.model),
        threads=threads,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        decode_tokens_per_s=decode_per_s,
        prefill_tokens_per_s=statistics.median(prefill),
        load_seconds=statistics.median(loads) if loads else None,
        peak_memory_bytes=round(statistics.median(peaks)) if peaks else None,
        weight_bytes_per_token=weight_bytes,
        read_bandwidth_gb_per_s=gb_per_s,
        read_bandwidth_same_size_gb_per_s=read_bandwidth(threads, max(weight_bytes, SMALLEST_BYTES)).gb_per_s,
        roofline_share=None if decode_per_s is None else weight_bytes * decode_per_s / (gb_per_s * 1e9),
        memory={
            name: round(statistics.median(values)) if (values := each.probed(name)) else None
            for name in memory_names
        },
        rounds={"prefill": prefill, "decode": decode},
    )


def _ratios(one: _Measured, other: _Measured, prompt_tokens: int, tokens: int) -> dict[str, Ratio | None]:
    return {
        "decode": paired_ratio(one.decode_per_s(tokens), other.decode_per_s(tokens)),
        "prefill": paired_ratio(one.prefill_per_s(prompt_tokens), other.prefill_per_s(prompt_tokens)),
        "load": paired_ratio(one.probed("load_seconds"), other.probed("load_seconds")),
        "memory": paired_ratio(one.probed("peak_memory_bytes"), other.probed("peak_memory_bytes")),
    }


def paired_ratio(values: Sequence[float], others: Sequence[float]) -> Ratio | None:
    """Return the ratio of the medians, and the smallest and largest of pairs; None if one has no values."""
    if not values or not others:
        return None
    pairs = [value / other for value, other in zip(values, others, strict=True)]
    return Ratio(statistics.median(values) / statistics.median(others), min(pairs), max(pairs))
