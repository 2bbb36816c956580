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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gossamer.errors import RunError, UsageError
from gossamer.evaluation.speed.bandwidth import COLD_BYTES, SMALLEST_BYTES, read_bandwidth
from gossamer.evaluation.speed.decode import Round, Runner, check_prompt, kind_of, run_round
from gossamer.evaluation.speed.load_probe import LoadFigures
from gossamer.evaluation.speed.memory import run_isolated
from gossamer.evaluation.speed.prompt import random_prompt
from gossamer.evaluation.speed.result import (
    Benchmark,
    Memory,
    ModelSpeed,
    ProbedBandwidth,
    Ratios,
    Rounds,
    paired_ratio,
)
from gossamer.evaluation.speed.surroundings import (
    business,
    cpu_model,
    is_noisy,
    num_cores,
    others_share,
    steal_share,
    versions,
)
from gossamer.evaluation.speed.threads import all_threads
from gossamer.evaluation.speed.weight_bytes import weight_bytes_per_token
from gossamer.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured."""

    name: str
    load: Callable[[], Runner]
    """Returns the model, ready to run."""
    path: str | None = None
    """What `gossamer.load` takes, for the processes that measure load time and memory; None: not measured."""
    dtype: str = "auto"
    activations: str = "float"
    engine: str = "torch"
    """torch, native or llama.cpp."""


@dataclass(slots=True)
class _Measured:
    """What is gathered about one model while the benchmark runs."""

    subject: Subject
    model: Runner
    prompt_tokens: int = 0
    tokens: int = 0
    rounds: list[Round] = field(default_factory=list)
    probes: list[LoadFigures] = field(default_factory=list)

    def prefill_per_s(self) -> list[float]:
        return [self.prompt_tokens / each.prefill for each in self.rounds]

    def decode_per_s(self) -> list[float]:
        return [self.tokens / each.decode for each in self.rounds if each.decode is not None]

    def load_seconds(self) -> list[float]:
        return [each.load_seconds for each in self.probes]

    def peak_memory_bytes(self) -> list[float]:
        return [each.peak_memory_bytes for each in self.probes]


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
) -> Benchmark:
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
    measured, prompt = _opened([subject, *([against] if against else [])], prompt_ids, prompt_tokens, tokens)
    with all_threads(threads):
        before, bandwidth_before = business(), read_bandwidth(threads, bandwidth_bytes)
        _time_rounds(measured, prompt, tokens, repeats, progress)
        after, bandwidth_after = business(), read_bandwidth(threads, bandwidth_bytes)
        _time_loading(measured, threads, prompt.shape[1], load_repeats, progress)
        gb_per_s = (bandwidth_before.gb_per_s + bandwidth_after.gb_per_s) / 2
        speeds = [_speed(each, threads, gb_per_s) for each in measured]
    return Benchmark(
        own=speeds[0],
        against=speeds[1] if against else None,
        ratios=_ratios(*measured) if against else None,
        repeats=repeats,
        loadavg_before=before.loadavg,
        loadavg_after=after.loadavg,
        others_share=others_share(before, after),
        steal_share=steal_share(before, after),
        noisy=is_noisy(before, after),
        cpu=cpu_model(),
        cores=num_cores(),
        bandwidth=ProbedBandwidth(
            bandwidth_before.size_bytes, bandwidth_before.gb_per_s, bandwidth_after.gb_per_s
        ),
        versions=versions(),
    )


def _opened(
    subjects: Sequence[Subject], ids: Sequence[int] | Tensor | None, prompt_tokens: int, tokens: int
) -> tuple[list[_Measured], Tensor]:
    """Load the models; return them and the prompt ids_1T, which each of them can take."""
    measured = [_Measured(each, each.load().eval()) for each in subjects]
    if ids is None:
        prompt_1T = random_prompt(measured[0].model, prompt_tokens)
    else:
        prompt_1T = torch.as_tensor(ids, dtype=torch.int64).reshape(1, -1)
    for each in measured:
        check_prompt(each.model, prompt_1T, tokens)
        each.prompt_tokens, each.tokens = prompt_1T.shape[1], tokens
    return measured, prompt_1T


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


def probe_load(subject: Subject, threads: int, prompt_tokens: int) -> LoadFigures:
    """Return what `load_probe` measures on a model in a process of its own. RunError when it fails."""
    assert subject.path is not None
    command = [sys.executable, "-m", "gossamer.evaluation.speed.load_probe", subject.path, subject.dtype]
    command += ["--threads", str(threads), "--prompt-tokens", str(prompt_tokens)]
    command += ["--activations", subject.activations, "--engine", subject.engine]
    lines = run_isolated(command).output.splitlines()
    try:
        return LoadFigures(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError) as error:
        raise RunError(f"{subject.path}: the process that loads the model printed no figures") from error


def _speed(each: _Measured, threads: int, gb_per_s: float) -> ModelSpeed:
    decode, prefill = each.decode_per_s(), each.prefill_per_s()
    weight_bytes = weight_bytes_per_token(each.model)
    decode_per_s = _median(decode)
    return ModelSpeed(
        model=each.subject.name,
        engine=each.subject.engine,
        activations=each.subject.activations,
        kind=kind_of(each.model),
        threads=threads,
        prompt_tokens=each.prompt_tokens,
        tokens=each.tokens,
        decode_tokens_per_s=decode_per_s,
        prefill_tokens_per_s=statistics.median(prefill),
        load_seconds=_median(each.load_seconds()),
        peak_memory_bytes=_median_bytes(each.peak_memory_bytes()),
        weight_bytes_per_token=weight_bytes,
        read_bandwidth_gb_per_s=gb_per_s,
        read_bandwidth_same_size_gb_per_s=read_bandwidth(threads, max(weight_bytes, SMALLEST_BYTES)).gb_per_s,
        roofline_share=None if decode_per_s is None else weight_bytes * decode_per_s / (gb_per_s * 1e9),
        memory=Memory(
            _median_bytes(probe.baseline_bytes for probe in each.probes),
            _median_bytes(probe.peak_anonymous_bytes for probe in each.probes),
            _median_bytes(probe.peak_file_bytes for probe in each.probes),
        ),
        rounds=Rounds(prefill, decode),
    )


def _median(values: Iterable[float | None]) -> float | None:
    """The median of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _median_bytes(values: Iterable[float | None]) -> int | None:
    median = _median(values)
    return None if median is None else round(median)


def _ratios(one: _Measured, other: _Measured) -> Ratios:
    return Ratios(
        decode=paired_ratio(one.decode_per_s(), other.decode_per_s()),
        prefill=paired_ratio(one.prefill_per_s(), other.prefill_per_s()),
        load=paired_ratio(one.load_seconds(), other.load_seconds()),
        memory=paired_ratio(one.peak_memory_bytes(), other.peak_memory_bytes()),
    )
