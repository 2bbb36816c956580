"""What `make bench` compares with what, and what is wanted: one line a format; medians and ratios of its rounds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rounds import Figures

BASE = "int4"
"""Our own format that the sparse ones are compared with."""
PEERS = ("Q8_0", "Q4_0", "Q4_K_M")
"""llama.cpp's file types."""
PREFILL_TARGETS = {"avx2": 2.2, "avx512": 3.0}
"""Over the faster of llama.cpp's files."""


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe, the file of llama.cpp that it is compared with, and targets for decoding by instruction set."""

    recipe: str
    peer: str
    over_peer: Mapping[str, float] = field(default_factory=dict)
    over_base: Mapping[str, float] = field(default_factory=dict)
    """Over our own int4."""


ROWS = (
    Row("int8", "Q8_0", over_peer={"avx2": 1.6, "avx512": 1.8}),
    Row("int4", "Q4_0", over_peer={"avx2": 1.6, "avx512": 2.5}),
    Row("sparse50-int4", "Q4_0", over_base={"avx2": 0.8, "avx512": 1.26}),
    Row(
        "nm2of4-int4", "Q4_0", over_peer={"avx2": 1.9, "avx512": 3.2}, over_base={"avx2": 1.25, "avx512": 1.3}
    ),
    Row("nm4of8-int4", "Q4_0"),
    Row("nm8of16-int4", "Q4_0"),
    Row("nm4of16-int4", "Q4_0", over_base={"avx2": 1.6, "avx512": 1.7}),
)
LARGE_ROWS = (
    Row("int4", "Q4_0"),
    Row("sparse50-int4", "Q4_0"),
    Row("nm2of4-int4", "Q4_0", over_base={"avx2": 1.3, "avx512": 1.3}),
)
"""Of the 3B model of random weights."""


def target_level(isa: str) -> str:
    """Return the level whose targets hold: tiles (amx) are of processors with AVX-512."""
    return "avx512" if isa == "amx" else isa


def models_of(
    rows: Sequence[Row], rounds: Sequence[Figures], isa: str, sizes: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return a table's lines, ours first: medians of the rounds, and ratios as `ratio` makes them.

    Args:
        rounds: of each round, figures by name.
        sizes: bytes of the files of the peers.
    """
    peers = list(dict.fromkeys(row.peer for row in rows))
    peers += [name for name in sizes if name not in peers]
    taken = {
        name: {what: [figures[name][what] for figures in rounds] for what in rounds[0][name]}
        for name in (*(row.recipe for row in rows), *peers)
    }
    level = target_level(isa)
    models = [of_row(row, taken, peers, level) for row in rows]
    return models + [
        {"name": name, "engine": "llama.cpp", "weight_bytes_per_token": sizes[name], **speeds(taken[name])}
        for name in peers
    ]


def of_row(
    row: Row, taken: Mapping[str, dict[str, list[float]]], peers: Sequence[str], level: str
) -> dict[str, Any]:
    own, peer, base = taken[row.recipe], taken[row.peer], taken.get(BASE)
    ratios = {"decode": ratio(own["decode"], peer["decode"], row.peer, row.over_peer.get(level))}
    if base is not None and row.recipe != BASE:
        ratios["base"] = ratio(own["decode"], base["decode"], BASE, row.over_base.get(level))
    if "prefill" in own:
        best = max(peers, key=lambda name: statistics.median(taken[name]["prefill"]))
        ratios["prefill"] = ratio(own["prefill"], taken[best]["prefill"], best, PREFILL_TARGETS.get(level))
    if "batch" in own:
        ratios["batch"] = ratio(own["batch"], peer["batch"], row.peer)
    return {
        "name": row.recipe,
        "engine": "native",
        "weight_bytes_per_token": round(own["weight_bytes_per_token"][0]),
        **speeds(own),
        "ratios": ratios,
    }


def speeds(own: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians, and the rounds they are of."""
    rounds = {what: own[what] for what in ("decode", "prefill", "batch") if what in own}
    medians = {f"{what}_tokens_per_s": statistics.median(values) for what, values in rounds.items()}
    return {**medians, "rounds": rounds}


def ratio(
    values: Sequence[float], others: Sequence[float], against: str, target: float | None = None
) -> dict[str, Any]:
    """Median, smallest and largest of the ratios within a round."""
    pairs = [value / other for value, other in zip(values, others, strict=True)]
    return {
        "against": against,
        "ratio": statistics.median(pairs),
        "low": min(pairs),
        "high": max(pairs),
        "target": target,
    }
