"""Reading a manifest that may be incomplete or wrong, and writing its figures for people.

A report must be possible for every folder: what is missing, of another type or not finite is None here and
"not measured" on the page.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST_TEXT = 4000
ABSENT = "\u2013"
"""Stands where a figure makes no sense; an en dash."""
TIMES = "\u00d7"


def look(value: object, *path: str) -> object:
    """Return what stands at `path` in nested mappings, or None."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def number(value: object, *path: str) -> float | None:
    """Return the finite number at `path`, or None."""
    found = look(value, *path)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def text(value: object, *path: str) -> str | None:
    """Return what stands at `path` as text if it is text or a number, cut to a length that can be shown."""
    found = look(value, *path)
    if isinstance(found, bool) or not isinstance(found, str | int | float) or found == "":
        return None
    try:
        shown = str(found)
    except ValueError:  # an integer with too many digits
        return None
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + " ..."


def texts(value: object, *path: str) -> list[str]:
    """Return the texts in the list at `path`."""
    found = look(value, *path)
    return [shown for each in found if (shown := text(each))] if isinstance(found, list) else []


def numbers(value: object, *path: str) -> dict[str, float]:
    """Return the entries of the mapping at `path` that are numbers, none below zero."""
    found = look(value, *path)
    if not isinstance(found, Mapping):
        return {}
    pairs = ((str(key), number(each)) for key, each in found.items())
    return {key: each for key, each in pairs if each is not None and each >= 0}


def entries(value: object, *path: str) -> list[Mapping[str, object]]:
    """Return the mappings in the list at `path`."""
    found = look(value, *path)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight matrix as the manifest reports it."""

    name: str
    label: str
    """Its name inside a block, the same for every block: `self_attn.q_proj`."""
    block: int | None
    num_weights: float
    sparsity: float | None
    relative_error: float | None
    format: str
    num_bytes: float | None
    notes: list[str] = field(default_factory=list)
    steps: list[tuple[str, float | None]] = field(default_factory=list)
    """Each step's method, and the error after it."""


def layers(manifest: object) -> list[Layer]:
    """Return the layers of a manifest; entries that cannot be read are left out."""
    return [_layer(each) for each in entries(manifest, "layers")]


def _layer(entry: object) -> Layer:
    name = text(entry, "name") or "?"
    block = number(entry, "block")
    shape = look(entry, "shape")
    sizes = [number(each) for each in shape] if isinstance(shape, list | tuple) else []
    known = [size for size in sizes if size is not None and size > 0]
    bits, rank = number(entry, "bits"), number(entry, "rank")
    return Layer(
        name=name,
        label=name if block is None else label_in_block(name),
        block=None if block is None else int(block),
        num_weights=math.prod(known) if known and len(known) == len(sizes) else 0.0,
        sparsity=number(entry, "sparsity"),
        relative_error=number(entry, "relative_error"),
        format=(text(entry, "format") or "?")
        + ("" if bits is None else f", {bits:g} bits")
        + ("" if rank is None else f", rank {rank:g}"),
        num_bytes=number(entry, "bytes"),
        notes=texts(entry, "notes"),
        steps=[
            (text(step, "method") or "?", number(step, "relative_error")) for step in entries(entry, "steps")
        ],
    )


def label_in_block(name: str) -> str:
    """Return what follows the block's number: model.layers.3.mlp.experts.7.up -> mlp.experts.*.up."""
    parts = name.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    rest = parts if first is None else parts[first + 1 :]
    return ".".join("*" if part.isdigit() else part for part in rest) or name


# ---- figures as people read them --------------------------------------------------------------------------


def plain(value: float | None, digits: int = 3) -> str | None:
    """Return a number with so many significant digits, without an exponent where possible."""
    if value is None:
        return None
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    magnitude = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if not -5 < magnitude < 15:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def size(num_bytes: float | None) -> str | None:
    """Return bytes in decimal units: 74.9 MB."""
    if num_bytes is None:
        return None
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= 0.9995 * factor:
            return f"{plain(num_bytes / factor)} {unit}"
    return f"{num_bytes:.0f} bytes"


def share(value: float | None) -> str | None:
    """Return a share of 1 as a percentage."""
    return None if value is None else f"{plain(100 * value)} %"


def seconds(value: float | None) -> str | None:
    """Return a time: 3.2 s, 4 min 10 s."""
    if value is None:
        return None
    if value < 120:
        return f"{plain(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
