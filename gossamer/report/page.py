"""One HTML page about one or several compressed models: quality, size and speed beside the dense parents.

The page is a single file that needs no network: plotly's script is inside, and a content security policy
forbids everything else. What a manifest says is never trusted: jinja2 escapes it in the page, JSON in the
data of figures, and `figures` in their texts; the policy names the two scripts of this page by their
hashes, so that none other runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import RunError, UsageError
from gossamer.files import write_text
from gossamer.report import html
from gossamer.report.after import Facts, Recovery, merged, notes_of_after, phases, recoveries
from gossamer.report.figures import Figure, Point, heat_map, scatter, size_bars
from gossamer.report.record import (
    ABSENT,
    Layer,
    entries,
    layers,
    look,
    number,
    numbers,
    plain,
    seconds,
    share,
    size,
    text,
    texts,
)
from gossamer.report.tables import (
    BENCHMARK,
    EVALUATION,
    KNOWN,
    make_table,
    parent_key,
    parent_name,
)

SAME_SPARSITY = 0.005
"""Sparsities that differ by less look the same in a figure."""


@dataclass(frozen=True, slots=True)
class Section:
    """Everything about one compressed model that is not in the main table."""

    name: str
    kinds: list[list[str]]
    """Rows of the table by kind of linear."""
    steps: list[list[str]]
    """The same kinds: the mean error after each step."""
    blocks: list[list[str]]
    """A row for each block: the error of its outputs, and what training it gave back."""
    formats: list[list[str]]
    error_map: Figure | None
    sparsity_map: Figure | None
    same_sparsity: str | None
    """The share of zeros if it is the same everywhere in the blocks: no figure is needed then."""
    notes: list[tuple[str, str]]
    """A note, and what it is about."""
    recipe: str | None
    provenance: Facts
    run: Facts
    phases: list[list[str]]
    """Where the time of compression went."""
    recoveries: list[Recovery]
    merged: list[Facts]
    measurements: Facts


def write_report(
    manifests: Sequence[Mapping[str, object]],
    out: Path | str,
    *,
    names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report of these models to `out`, complete or not at all, and return its path.

    Args:
        manifests: the contents of their `gossamer.json`, at least one.
        out: the HTML file.
        names: what to call each model; default: its parent and recipe.
        overwrite: replace `out` if it exists.

    Raises:
        UsageError: no manifest, `out` exists, or its folder does not.
        RunError: the file could not be written.
    """
    out = Path(out)
    if not manifests:
        raise UsageError("report: expected at least one compressed folder, got none")
    if names is not None and len(names) != len(manifests):
        raise UsageError(f"report: expected {len(manifests)} names, got {len(names)}")
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out}: expected the path of a file in a folder that exists.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already. Choose another name, or allow it to be overwritten.")
    page = render(manifests, list(names) if names is not None else default_names(manifests))
    try:
        write_text(out, page)
    except OSError as error:
        raise RunError(f"{out}: the report could not be written ({error}).") from error
    return out


def default_names(manifests: Sequence[object]) -> list[str]:
    """Return a name for each model from its recipe, numbered where two are alike."""
    plain_names = [text(each, "recipe", "name") or text(each, "name") or "compressed" for each in manifests]
    return [
        name if plain_names.count(name) == 1 else f"{name} {1 + plain_names[:index].count(name)}"
        for index, name in enumerate(plain_names)
    ]


def render(manifests: Sequence[object], names: list[str]) -> str:
    """Return the page."""
    parents = list(dict.fromkeys(parent_name(each) for each in manifests))
    return html.render(
        "report.html.j2",
        title=", ".join(parents), names=names, version=text(manifests[0], "gossamer_version"),
        table=make_table(manifests, names), size_figure=_sizes(manifests, names),
        against_size=_against(manifests, names, ("size", "total_bytes"), ("parent", "bf16_bytes"), 1e6,
        "size, MB"), against_speed=_against(
            manifests, names, (*BENCHMARK, "decode_tokens_per_s"),
            (*BENCHMARK, "against", "decode_tokens_per_s"), 1, "decode, tokens/s",
        ),
        sections=[_section(each, name) for each, name in zip(manifests, names, strict=True)],
    )  # fmt: skip


# ---- figures over all models ------------------------------------------------------------------------------


def _dense_names(manifests: Sequence[object]) -> dict[str, str]:
    """Return what to call each parent in a figure: "dense" suffices when there is one."""
    names = {parent_key(each): f"{parent_name(each)}, dense" for each in manifests}
    return names if len(names) > 1 else dict.fromkeys(names, "dense")


def _sizes(manifests: Sequence[object], names: Sequence[str]) -> Figure | None:
    """Bars by part; each parent once, above its models."""
    bars: list[tuple[str, dict[str, float]]] = []
    seen: set[str] = set()
    dense_name = _dense_names(manifests)
    for manifest, name in zip(manifests, names, strict=True):
        own, dense = numbers(manifest, "size", "by_part"), numbers(manifest, "size", "parent_by_part")
        if dense and parent_key(manifest) not in seen:
            seen.add(parent_key(manifest))
            bars.append((f"{dense_name[parent_key(manifest)]}, bfloat16", dense))
        if own:
            bars.append((name, own))
    return size_bars(bars) if any(any(parts.values()) for _, parts in bars) else None


def _against(
    manifests: Sequence[object],
    names: Sequence[str],
    own: tuple[str, ...],
    dense: tuple[str, ...],
    unit: float,
    title: str,
) -> Figure | None:
    """Perplexity against another figure, for everything that has both."""
    points: list[Point] = []
    seen: set[str] = set()
    dense_name = _dense_names(manifests)
    for manifest, name in zip(manifests, names, strict=True):
        x, y = number(manifest, *dense), number(manifest, *EVALUATION, "parent_perplexity")
        if x is not None and y is not None and parent_key(manifest) not in seen:
            seen.add(parent_key(manifest))
            points.append(Point(dense_name[parent_key(manifest)], x / unit, y, True))
        x, y = number(manifest, *own), number(manifest, *EVALUATION, "perplexity")
        if x is not None and y is not None:
            points.append(Point(name, x / unit, y, False))
    return scatter(points, title, "perplexity") if points else None


# ---- one model --------------------------------------------------------------------------------------------


def _section(manifest: object, name: str) -> Section:
    known = layers(manifest)
    return Section(
        name=name,
        kinds=_by_kind(known),
        steps=_by_step(known),
        blocks=_by_block(manifest),
        formats=_by_format(manifest, known),
        error_map=heat_map(known, [each.relative_error for each in known]),
        sparsity_map=heat_map(known, [each.sparsity for each in known], top=1.0),
        same_sparsity=_same_sparsity(known),
        notes=_notes(manifest, known),
        recipe=text(manifest, "recipe_yaml"),
        provenance=_provenance(manifest),
        run=_run(manifest),
        phases=phases(manifest),
        recoveries=recoveries(manifest),
        merged=merged(manifest),
        measurements=_measurements(manifest),
    )


def _same_sparsity(known: Sequence[Layer]) -> str | None:
    found = [layer.sparsity for layer in known if layer.block is not None and layer.sparsity is not None]
    if not found or max(found) - min(found) > SAME_SPARSITY:
        return None
    return share(sum(found) / len(found))


def _by_kind(known: Sequence[Layer]) -> list[list[str]]:
    """A line for each kind of linear: how many, sparsity, mean and largest error, bytes, bits per weight."""
    rows = []
    for kind in dict.fromkeys(layer.label for layer in known):
        own = [layer for layer in known if layer.label == kind]
        errors = [layer.relative_error for layer in own if layer.relative_error is not None]
        zeros = [layer.sparsity for layer in own if layer.sparsity is not None]
        count, num_bytes = sum(each.num_weights for each in own), sum(each.num_bytes or 0.0 for each in own)
        cells = [
            share(sum(zeros) / len(zeros)) if zeros else None,
            share(sum(errors) / len(errors)) if errors else None,
            share(max(errors)) if errors else None,
            size(num_bytes),
            plain(8 * num_bytes / count) if count else None,
        ]
        rows.append([kind, str(len(own)), *(cell or ABSENT for cell in cells)])
    return rows


def _by_step(known: Sequence[Layer]) -> list[list[str]]:
    """A line for each kind of linear and chain of steps: the mean error after each step, as far as it is known."""
    chains: dict[tuple[str, tuple[str, ...]], list[Layer]] = {}
    for layer in known:
        if layer.steps:
            chains.setdefault((layer.label, tuple(method for method, _ in layer.steps)), []).append(layer)
    rows = []
    for (kind, methods), own in chains.items():
        after = []
        for place, method in enumerate(methods):
            errors = [error for layer in own if (error := layer.steps[place][1]) is not None]
            after.append(f"{method} {share(sum(errors) / len(errors)) if errors else ABSENT}")
        rows.append([kind, str(len(own)), ", ".join(after)])
    return rows


def _by_block(manifest: object) -> list[list[str]]:
    """A line for each block whose outputs were compared with the dense model's, with every training of it."""
    rows = []
    for block in entries(manifest, "blocks"):
        trained = [
            (before, after)
            for gain in entries(block, "reconstruction")
            if (before := number(gain, "before")) is not None and (after := number(gain, "after")) is not None
        ]
        error = number(block, "output_error")
        if error is None and not trained:
            continue
        gains = [f"{share(before)} to {share(after)}" for before, after in trained]
        rows.append([text(block, "name") or "?", share(error) or ABSENT, ", ".join(gains) or ABSENT])
    return rows


def _by_format(manifest: object, known: Sequence[Layer]) -> list[list[str]]:
    """A line for each format: how many matrices, weights, bytes, bits per weight; and what was not packed."""
    rows = []
    for kind in dict.fromkeys(layer.format for layer in known):
        own = [layer for layer in known if layer.format == kind]
        count, num_bytes = sum(each.num_weights for each in own), sum(each.num_bytes or 0.0 for each in own)
        bits = plain(8 * num_bytes / count) if count else None
        rows.append([kind, str(len(own)), f"{count / 1e6:,.2f} M", size(num_bytes) or ABSENT, bits or ABSENT])
    everything = number(manifest, "size", "weights_bytes")
    rest = None if everything is None else everything - sum(each.num_bytes or 0.0 for each in known)
    if rows and rest is not None and rest > 0:
        rows.append(["not packed", ABSENT, ABSENT, size(rest) or ABSENT, ABSENT])
    return rows


def _notes(manifest: object, known: Sequence[Layer]) -> list[tuple[str, str]]:
    """Notes of the run, and those of layers gathered by their words."""
    notes = [(note, "") for note in (*texts(manifest, "notes"), *texts(manifest, "run", "notes"))]
    notes += notes_of_after(manifest)
    gathered: dict[str, list[str]] = {}
    for layer in known:
        for note in layer.notes:
            gathered.setdefault(note, []).append(layer.name)
    for note, owners in gathered.items():
        more = f" and {len(owners) - 3} more" if len(owners) > 3 else ""
        notes.append((note, ", ".join(owners[:3]) + more))
    return notes


def _facts(manifest: object, wanted: Sequence[tuple[str, tuple[str, ...]]]) -> Facts:
    return [(title, shown) for title, path in wanted if (shown := text(manifest, *path)) is not None]


def _provenance(manifest: object) -> Facts:
    facts = _facts(
        manifest,
        [
            ("Parent", ("parent", "name")),
            ("SHA-256 of the parent's weights", ("parent", "sha256")),
            ("Calibration text", ("calibration", "source")),
            ("Calibration fingerprint", ("calibration", "fingerprint")),
            ("Calibration windows", ("calibration", "num_samples")),
            ("Tokens in a window", ("calibration", "length")),
            ("Calibration seed", ("calibration", "seed")),
            ("Made", ("created",)),
            ("Gossamer", ("gossamer_version",)),
            ("torch", ("versions", "torch")),
            ("transformers", ("versions", "transformers")),
            ("Format version", ("format_version",)),
        ],
    )
    parent_size = size(number(manifest, "parent", "size_bytes"))
    return facts if parent_size is None else [facts[0], ("Parent's own files", parent_size), *facts[1:]]


def _run(manifest: object) -> Facts:
    pairs = [
        ("Time", seconds(number(manifest, "run", "seconds"))),
        ("Peak memory", size(number(manifest, "run", "peak_memory_bytes"))),
        ("Peak with mapped files", size(number(manifest, "run", "peak_resident_bytes"))),
        ("Threads", text(manifest, "run", "threads")),
        ("Processor", text(manifest, "run", "cpu")),
        ("Largest difference after loading again", plain(number(manifest, "reload_max_difference"))),
    ]
    return [(title, shown) for title, shown in pairs if shown is not None]


def _measurements(manifest: object) -> Facts:
    """Numbers of the evaluation that have no place in the main table."""
    found = look(manifest, *EVALUATION)
    if not isinstance(found, Mapping):
        return []
    pairs = [(str(key), plain(number(found, key), 4)) for key in found if key not in KNOWN]
    return [(key.replace("_", " "), shown) for key, shown in pairs if shown is not None]
