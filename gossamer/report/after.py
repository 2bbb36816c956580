"""What a page says of what came after compression: recoveries, with their curves, and merged adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gossamer.report.figures import Figure, curve
from gossamer.report.record import ABSENT, entries, number, plain, seconds, share, size, text, texts

Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Recovery:
    """One time that a model was trained back towards its parent."""

    facts: Facts
    curve: list[list[str]]
    """A row for each time that the held-out text was judged."""
    measure: str
    """What was judged, as the title of a column."""
    by_tokens: Figure | None
    by_seconds: Figure | None


def recoveries(manifest: object) -> list[Recovery]:
    """Return what stands in `recovery`, in the order in which it was done."""
    return [_recovery(each) for each in entries(manifest, "recovery")]


def merged(manifest: object) -> list[Facts]:
    """Return what stands in `merged`: a list of facts for each adapter."""
    return [_adapter(each) for each in entries(manifest, "merged")]


def notes_of_after(manifest: object) -> list[tuple[str, str]]:
    """Return the notes of both, and what each is about."""
    about = [(each, "recovery") for each in entries(manifest, "recovery")]
    about += [(each, text(each, "adapter", "name") or "adapter") for each in entries(manifest, "merged")]
    return [(note, what) for each, what in about for note in texts(each, "notes")]


def phases(manifest: object) -> list[list[str]]:
    """A line for each phase of compression: its seconds and its share, the longest first."""
    known = [(name, value) for name, value in _phases(manifest).items() if value >= 0]
    total = sum(value for _, value in known)
    longest = sorted(known, key=lambda each: -each[1])
    return [
        [name, seconds(value) or ABSENT, share(value / total) or ABSENT]
        for name, value in longest
        if value >= 0.001 * total and total > 0
    ]


def _phases(manifest: object) -> dict[str, float]:
    run = manifest.get("run") if isinstance(manifest, Mapping) else None
    found = run.get("seconds_by_phase") if isinstance(run, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    pairs = ((text(name) or "?", number(value)) for name, value in found.items())
    return {name: value for name, value in pairs if value is not None}


def _recovery(entry: object) -> Recovery:
    points = entries(entry, "curve")
    return Recovery(
        facts=_facts(entry),
        curve=[_point(each) for each in points],
        measure=_measure(points),
        by_tokens=_curve(points, "tokens", 1e3, "tokens learnt from, thousands"),
        by_seconds=_curve(points, "seconds", 60, "minutes"),
    )


def _facts(entry: object) -> Facts:
    speed, peak = number(entry, "tokens_per_s"), number(entry, "share_of_peak")
    tokens, moved = number(entry, "tokens"), number(entry, "moved", "share")
    pairs = [
        ("Held-out KL to the parent", _from_to(entry, "held_out_kl")),
        ("Held-out error of the embeddings", _from_to(entry, "held_out_error")),
        ("Held-out perplexity", _from_to(entry, "held_out_perplexity")),
        ("Trained", text(entry, "settings", "train")),
        ("Text", text(entry, "text", "source")),
        ("Teacher", text(entry, "teacher", "name")),
        ("Tokens learnt from", None if tokens is None else f"{tokens:,.0f}"),
        ("Steps", text(entry, "steps")),
        ("Time", seconds(number(entry, "seconds"))),
        ("Speed in training", None if speed is None else f"{plain(speed)} tokens/s"),
        ("Share of what the machine multiplies", share(peak)),
        ("Kept weights that were trained", _count(entry, "kept_weights")),
        ("Zeros that stayed" if moved is None else "Zeros", _count(entry, "removed_weights")),
        ("Kept weights with another place than before", share(moved)),
        ("Memory of the optimizer", size(number(entry, "optimizer_bytes"))),
        ("Peak memory", size(number(entry, "peak_memory_bytes"))),
        ("Made", text(entry, "created")),
    ]
    return [(title, shown) for title, shown in pairs if shown is not None]


def _adapter(entry: object) -> Facts:
    pairs = [
        ("Adapter", text(entry, "adapter", "name")),
        ("SHA-256 of its weights", text(entry, "adapter", "sha256")),
        ("Trained on", text(entry, "adapter", "base_model")),
        ("Of its change at kept weights arrived", share(number(entry, "total", "arrived"))),
        ("Relative error of that", plain(number(entry, "total", "relative_error"))),
        ("Of its change fell on removed weights", share(number(entry, "total", "dropped"))),
        ("Zeros that stayed", _count(entry, "removed_weights")),
        ("Made", text(entry, "created")),
    ]
    return [(title, shown) for title, shown in pairs if shown is not None]


def _count(entry: object, key: str) -> str | None:
    found = number(entry, key)
    return None if found is None else f"{found:,.0f}"


def _from_to(entry: object, key: str) -> str | None:
    before, after = number(entry, key, "before"), number(entry, key, "after")
    return None if before is None or after is None else f"{plain(before, 4)} before, {plain(after, 4)} after"


def _point(point: object) -> list[str]:
    cells = [
        _count(point, "step"), _count(point, "tokens"), seconds(number(point, "seconds")),
        plain(number(point, "loss"), 4), plain(_distance(point), 4), plain(number(point, "perplexity"), 4),
    ]  # fmt: skip
    return [cell or ABSENT for cell in cells]


def _curve(points: Sequence[object], key: str, unit: float, title: str) -> Figure | None:
    """Held-out KL against another figure; None where fewer than two points have both."""
    known = [
        (x / unit, y, f"{_count(point, 'tokens') or '?'} tokens, {seconds(number(point, 'seconds')) or '?'}")
        for point in points
        if (x := number(point, key)) is not None and (y := _distance(point)) is not None
    ]
    return curve(known, title, _measure(points)) if len(known) > 1 else None


def _measure(points: Sequence[object]) -> str:
    errors = any(number(point, "error") is not None for point in points)
    return "held-out error of the embeddings" if errors else "held-out KL, nats a token"


def _distance(point: object) -> float | None:
    """The KL to the parent, or the error of the embeddings."""
    kl = number(point, "kl")
    return number(point, "error") if kl is None else kl
