"""Products of packed matrices beside torch and scipy on real shapes.

    python benchmarks/products.py [--threads N] [--shapes 576x576 ...] [--tokens 1 8 512] [--rounds N]
                                  [--only NAME ...] [--cold] [--json]

For each shape (O x I) and number of tokens T: every product is checked against the unpacked weight, then timed in
rounds that visit all products in turn, so that a busy moment of the machine hits everybody. Printed: the median time,
the range over the rounds, weights per second (dense-equivalent: O * I * T / time), the ratio to torch float32 and
bfloat16 of the same round (median), and the packed bytes per second as a share of the read bandwidth that was probed
in this run.

Hot (the default): one matrix, again and again, from whatever cache it fits in; bandwidth is probed over 32 MB.
Cold: copies of the matrix that together exceed 600 MB, visited in turn, the peer in the same way; one product at a
time beside torch bfloat16; bandwidth is probed over 600 MB. Only for matrices of more than a million weights.

Results on stdout, progress on stderr.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from gossamer.evaluation.speed.bandwidth import read_bandwidth
from gossamer.evaluation.speed.surroundings import business, cpu_model, is_noisy
from gossamer.formats.bitmask import BitmaskWeight
from gossamer.formats.integer import IntegerWeight
from gossamer.formats.nm import NmWeight
from gossamer.formats.packed import PackedWeight, from_tensors
from gossamer.formats.quantized import Quantized
from gossamer.kernels import dispatch, reference

SHAPES = ("576x576", "1536x576", "576x1536", "4096x4096", "14336x4096")
GROUP_SIZE = 64
SAMPLE_SECONDS = 0.002
COLD_BYTES = 600 * 10**6
HOT_PROBE_BYTES = 32 * 10**6
PEERS = ("torch float32", "torch bfloat16")

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """A product, its weight in float32 to check it by, and the bytes that it reads."""

    name: str
    product: Product
    weight_OI: Tensor
    rounds_inputs: bool
    size_bytes: int
    tolerance: float
    copies: Callable[[int], list[Product]]


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    shape: str
    tokens: int
    name: str
    median_us: float
    fastest_us: float
    slowest_us: float
    giga_weights_per_s: float
    speedup_over_float32: float | None
    speedup_over_bfloat16: float
    size_bytes: int
    bandwidth_share: float


# ---- what is compared --------------------------------------------------------------------------------------


def quantize(weight_OI: Tensor, bits: int) -> Quantized:
    """Round to nearest: the values do not matter here, the bytes do."""
    groups_OGg = weight_OI.unflatten(1, (-1, GROUP_SIZE))
    half = 2 ** (bits - 1)
    scale_OG = (groups_OGg.abs().amax(2) / (half - 1)).half().float()
    codes_OGg = (groups_OGg / scale_OG[:, :, None]).round().add(half).clamp(0, 2 * half - 1)
    return Quantized(codes_OGg.flatten(1).to(torch.uint8), scale_OG, None, bits, GROUP_SIZE)


def keep_of_16(weight_OI: Tensor, keep: int) -> Tensor:
    """The mask of the largest `keep` of each 16 columns."""
    windows = weight_OI.abs().unflatten(1, (-1, 16))
    return (
        torch.zeros_like(windows, dtype=torch.bool).scatter_(2, windows.topk(keep).indices, True).flatten(1)
    )


def packed_candidates(name: str, packed: PackedWeight) -> Iterator[Candidate]:
    weight_OI = packed.unpack()

    def copies(count: int, activations: str) -> list[Product]:
        several = [
            from_tensors(packed.meta(), {key: t.clone() for key, t in packed.tensors().items()})
            for _ in range(count)
        ]
        return [lambda x, copy=copy: copy.matmul(x, activations) for copy in several]

    for activations in ("float", "int8") if "bits" in packed.meta() else ("float",):
        yield Candidate(
            f"{name}, x {activations}",
            lambda x, a=activations: packed.matmul(x, a),
            weight_OI,
            activations == "int8",
            packed.num_bytes,
            1e-4,
            lambda count, a=activations: copies(count, a),
        )


def torch_candidate(name: str, weight_OI: Tensor, tolerance: float) -> Candidate:
    def product(stored: Tensor) -> Product:
        return lambda x: functional.linear(x.to(stored.dtype), stored).float()

    return Candidate(
        name,
        product(weight_OI),
        weight_OI.float(),
        False,
        weight_OI.numel() * weight_OI.element_size(),
        tolerance,
        lambda count: [product(weight_OI.clone()) for _ in range(count)],
    )


def sparse_candidates(weight_OI: Tensor) -> Iterator[Candidate]:
    import scipy.sparse

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        csr = weight_OI.to_sparse_csr()
    size_bytes = csr.values().numel() * 12 + csr.crow_indices().numel() * 8
    yield Candidate(
        "torch CSR 50 %", lambda x: (csr @ x.T).T, weight_OI, False, size_bytes, 1e-4, lambda count: []
    )
    matrix = scipy.sparse.csr_array(weight_OI.numpy())
    size_bytes = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    product: Product = lambda x: torch.from_numpy((matrix @ x.numpy().T).T)  # noqa: E731
    yield Candidate("scipy CSR 50 %", product, weight_OI, False, size_bytes, 1e-4, lambda count: [])


def candidates(num_outputs: int, num_inputs: int) -> Iterator[Candidate]:
    weight_OI = torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(0))
    yield torch_candidate(PEERS[0], weight_OI, 1e-4)
    yield torch_candidate(PEERS[1], weight_OI.bfloat16(), 2e-2)
    half_OI = weight_OI.abs() > weight_OI.abs().median()
    yield from sparse_candidates(weight_OI * half_OI)
    int8, int4 = quantize(weight_OI, 8), quantize(weight_OI, 4)
    yield from packed_candidates("int8", IntegerWeight.pack(int8))
    yield from packed_candidates("int4", IntegerWeight.pack(int4))
    yield from packed_candidates("bitmask int8 50 %", BitmaskWeight.pack(int8, half_OI))
    yield from packed_candidates("bitmask int4 50 %", BitmaskWeight.pack(int4, half_OI))
    bfloat16 = BitmaskWeight.pack_float(weight_OI, half_OI, torch.bfloat16)
    yield from packed_candidates("bitmask bfloat16 50 %", bfloat16)
    for keep in (8, 4):
        yield from packed_candidates(f"{keep}:16 int4", NmWeight.pack(int4, keep_of_16(weight_OI, keep)))


# ---- measuring ---------------------------------------------------------------------------------------------


def check(candidate: Candidate, x_TI: Tensor) -> None:
    """Stop unless the product is right: a wrong kernel has no speed."""
    if candidate.rounds_inputs:
        x_TI = reference.round_activations(x_TI, 64)
    expected_TO = x_TI.double() @ candidate.weight_OI.double().T
    error = float((candidate.product(x_TI) - expected_TO).norm() / expected_TO.norm())
    # Rounding what is rounded already changes nothing but a few codes next to a tie.
    if not error < max(candidate.tolerance, 1e-3 if candidate.rounds_inputs else 0):
        raise SystemExit(f"{candidate.name}: wrong result, relative error {error:g}")


def sample(products: list[Product], x_TI: Tensor, calls: int, first: int) -> float:
    """Seconds per call, over the products in turn."""
    started = time.perf_counter()
    for i in range(calls):
        products[(first + i) % len(products)](x_TI)
    return (time.perf_counter() - started) / calls


def measure_together(entries: dict[str, list[Product]], x_TI: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds per call of every entry in every round."""
    calls = {}
    for name, products in entries.items():
        seconds = min(sample(products, x_TI, len(products), 0) for _ in range(2))
        calls[name] = max(1, min(1000, round(SAMPLE_SECONDS / seconds)))
    seconds_of: dict[str, list[float]] = {name: [] for name in entries}
    for number in range(rounds):
        for name, products in entries.items():
            seconds_of[name].append(sample(products, x_TI, calls[name], number * calls[name]))
    return seconds_of


def to_row(
    shape: str, tokens: int, candidate: Candidate, seconds_of: dict[str, list[float]], gb_per_s: float
) -> Row:
    seconds = seconds_of[candidate.name]
    median = statistics.median(seconds)

    def speedup(peer: str) -> float | None:
        if peer not in seconds_of:
            return None
        return statistics.median(p / s for p, s in zip(seconds_of[peer], seconds, strict=True))

    over_bfloat16 = speedup(PEERS[1])
    assert over_bfloat16 is not None
    return Row(
        shape,
        tokens,
        candidate.name,
        median * 1e6,
        min(seconds) * 1e6,
        max(seconds) * 1e6,
        candidate.weight_OI.numel() * tokens / median / 1e9,
        speedup(PEERS[0]),
        over_bfloat16,
        candidate.size_bytes,
        candidate.size_bytes / median / 1e9 / gb_per_s,
    )


def hot_rows(shape: str, chosen: list[Candidate], tokens: int, rounds: int, gb_per_s: float) -> Iterator[Row]:
    x_TI = torch.randn(tokens, chosen[0].weight_OI.shape[1])
    if tokens > 8 and chosen[0].weight_OI.numel() > 10**6:
        chosen = [c for c in chosen if "CSR" not in c.name]  # minutes
    entries = {c.name: [c.product] for c in chosen}
    seconds_of = measure_together(entries, x_TI, rounds)
    for candidate in chosen:
        yield to_row(shape, tokens, candidate, seconds_of, gb_per_s)


def cold_rows(
    shape: str, chosen: list[Candidate], tokens: int, rounds: int, gb_per_s: float
) -> Iterator[Row]:
    x_TI = torch.randn(tokens, chosen[0].weight_OI.shape[1])

    def cold(candidate: Candidate) -> list[Product]:
        return candidate.copies(-(-COLD_BYTES // candidate.size_bytes))

    peer = next(c for c in chosen if c.name == PEERS[1])
    peer_products = cold(peer)
    for candidate in chosen:
        if "CSR" in candidate.name:
            continue
        entries = {peer.name: peer_products}
        if candidate is not peer:
            entries[candidate.name] = cold(candidate)
        seconds_of = measure_together(entries, x_TI, rounds)
        yield to_row(shape, tokens, candidate, seconds_of, gb_per_s)


def measure_shape(shape: str, options: argparse.Namespace, gb_per_s: float) -> Iterator[Row]:
    num_outputs, num_inputs = (int(size) for size in shape.split("x"))
    if options.cold and num_outputs * num_inputs <= 10**6:
        return
    sys.stderr.write(f"{shape}: packing and checking\n")
    wanted = [*(options.only or [""]), *PEERS]
    chosen = [c for c in candidates(num_outputs, num_inputs) if any(word in c.name for word in wanted)]
    for candidate in chosen:
        check(candidate, torch.randn(3, num_inputs))
    for tokens in options.tokens:
        sys.stderr.write(f"{shape}: {tokens} tokens\n")
        rows = cold_rows if options.cold else hot_rows
        yield from rows(shape, chosen, tokens, options.rounds, gb_per_s)


# ---- showing -----------------------------------------------------------------------------------------------


def show(rows: list[Row], console: Console) -> None:
    for shape, tokens in dict.fromkeys((row.shape, row.tokens) for row in rows):
        table = Table(title=f"{shape}, {tokens} tokens", title_justify="left")
        table.add_column("product")
        for heading in ("us", "range", "G weights/s", "x float32", "x bfloat16", "KB", "of bandwidth"):
            table.add_column(heading, justify="right")
        for row in rows:
            if (row.shape, row.tokens) != (shape, tokens):
                continue
            over_float32 = row.speedup_over_float32
            table.add_row(
                row.name,
                f"{row.median_us:.1f}",
                f"{row.fastest_us:.1f} - {row.slowest_us:.1f}",
                f"{row.giga_weights_per_s:.1f}",
                "" if over_float32 is None else f"{over_float32:.2f}",
                f"{row.speedup_over_bfloat16:.2f}",
                f"{row.size_bytes / 1000:.0f}",
                f"{row.bandwidth_share:.0%}" if row.tokens == 1 else "",
            )
        console.print(table)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=dispatch.num_threads())
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="OxI")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", nargs="*", help="parts of names; torch float32 and bfloat16 are always there"
    )
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    dispatch.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    probe_bytes = COLD_BYTES if options.cold else HOT_PROBE_BYTES
    bandwidth = read_bandwidth(options.threads, probe_bytes)
    before = business()
    setting = {
        "cpu": cpu_model(),
        "isa": dispatch.isa(),
        "threads": options.threads,
        "cold": options.cold,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "read_bandwidth": asdict(bandwidth),
    }
    rows = [row for shape in options.shapes for row in measure_shape(shape, options, bandwidth.best_gb_per_s)]
    setting["noisy"] = is_noisy(before, business())
    if options.json:
        sys.stdout.write(json.dumps(setting | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(
        f"{setting['cpu']}, {setting['isa']}, {options.threads} threads, torch {torch.__version__}; read "
        f"bandwidth over {probe_bytes // 10**6} MB: {bandwidth.best_gb_per_s:.1f} GB/s",
        soft_wrap=True,
    )
    if setting["noisy"]:
        console.print("[bold]The machine was busy with something else: do not trust these times.[/bold]")
    show(rows, console)


if __name__ == "__main__":
    main()
