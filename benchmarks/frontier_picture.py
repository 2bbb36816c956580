"""Size against perplexity as an SVG file, from the figures of benchmarks/frontier.py.

It lies on a white card, so that it reads the same on a light page and on a dark one.
"""

import math
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 720, 430
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 62, 54
"""Margins around the plot."""
FONT, LETTER = 12, 6.4
"""Size of a label, and how wide one of its letters is at most on average."""
INK, GRID = "#24292f", "#d8dee4"
STYLES = {
    "Gossamer": "fill='#0b7a75'",
    "llama.cpp": "fill='#c2571a'",
    "dense bf16": "fill='white' stroke='#24292f' stroke-width='2'",
}
HALO = "stroke='white' stroke-width='4' paint-order='stroke'"
"""Keeps grid lines away from letters."""
RADIUS = 5
SIZE_TICKS = (50, 75, 100, 150, 200, 300, 500, 750, 1000)


class Point(NamedTuple):
    name: str
    kind: str
    megabytes: float
    perplexity: float


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Tell whether the two have anything in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


PLOT = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


def as_svg(report: dict[str, Any]) -> str:
    """Return the picture of a report: every model and its dense parent."""
    points = points_of(report)
    x = Scale([math.log(each.megabytes) for each in points], PLOT.left, PLOT.right)
    y = Scale([each.perplexity for each in points], PLOT.bottom, PLOT.top)
    places = [(x(math.log(each.megabytes)), y(each.perplexity)) for each in points]
    parts = [
        text(LEFT, 24, "SmolLM2-135M: size against perplexity", "font-weight='bold' font-size='15'"),
        *legend(),
        *axes(x, y),
    ]
    for point, (across, down) in zip(points, places, strict=True):
        parts.append(marker(point.kind, across, down))
    parts += labels([each.name for each in points], places)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"font-family='sans-serif' font-size='{FONT}' fill='{INK}'>\n"
        "<rect width='100%' height='100%' rx='8' fill='white'/>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def points_of(report: dict[str, Any]) -> list[Point]:
    """The dense parent in bfloat16, then all models; sizes in MB of 10^6 bytes."""
    dense = report["dense"]
    points = [Point("dense", "dense bf16", dense["bf16_bytes"] / 1e6, dense["perplexity"])]
    for name, model in report["models"].items():
        kind = "Gossamer" if model["engine"] == "native" else model["engine"]
        points.append(Point(name, kind, model["size_bytes"] / 1e6, model["perplexity"]))
    return points


class Scale:
    """Values to places between two ends, with a tenth of the range left free at both."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        room = 0.1 * (max(values) - min(values))
        self.low, self.high = min(values) - room, max(values) + room
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def axes(x: Scale, y: Scale) -> list[str]:
    """Grid lines with their figures, and the titles of both axes."""
    parts = []
    for tick in SIZE_TICKS:
        if x.holds(math.log(tick)):
            place = x(math.log(tick))
            parts.append(line(place, PLOT.top, place, PLOT.bottom, GRID))
            parts.append(text(place, PLOT.bottom + 18, str(tick), "text-anchor='middle'"))
    step = max(1, round((y.high - y.low) / 7))
    for tick in range(math.ceil(y.low / step) * step, math.floor(y.high) + 1, step):
        parts.append(line(PLOT.left, y(tick), PLOT.right, y(tick), GRID))
        parts.append(text(PLOT.left - 8, y(tick) + 4, str(tick), "text-anchor='end'"))
    middle, centre = (PLOT.left + PLOT.right) / 2, (PLOT.top + PLOT.bottom) / 2
    parts.append(
        text(middle, HEIGHT - 14, "size on disk, MB (logarithmic; smaller is better)", "text-anchor='middle'")
    )
    turned = f"text-anchor='middle' transform='rotate(-90 18 {centre:.1f})'"
    return [*parts, text(18, centre, "perplexity (lower is better)", turned)]


def legend() -> list[str]:
    """One line under the title: which mark is whose."""
    parts, across = [], LEFT + RADIUS
    for kind in STYLES:
        parts += [marker(kind, across, 42), text(across + 12, 46, kind)]
        across += int(len(kind) * LETTER) + 40
    return parts


def marker(kind: str, across: float, down: float) -> str:
    """A circle for ours and for the dense parent, a square for llama.cpp's: told apart without colours too."""
    if kind == "llama.cpp":
        corner = f"x='{across - RADIUS:.1f}' y='{down - RADIUS:.1f}'"
        return f"<rect {corner} width='{2 * RADIUS}' height='{2 * RADIUS}' {STYLES[kind]}/>"
    return f"<circle cx='{across:.1f}' cy='{down:.1f}' r='{RADIUS}' {STYLES[kind]}/>"


def labels(names: list[str], places: list[tuple[float, float]]) -> list[str]:
    """A name beside each mark, at the nearest place where it meets no mark and no other name."""
    taken = [around(*place) for place in places]
    parts = []
    for name, (across, down) in zip(names, places, strict=True):
        width = len(name) * LETTER
        box = next(box for box in beside(across, down, width) if inside(box) and not meets(box, taken))
        taken.append(box)
        nearest = min(max(across, box.left), box.right), min(max(down, box.top), box.bottom)
        if math.dist(nearest, (across, down)) > 2 * FONT:
            parts.append(line(across, down, *nearest, "#8c959f"))
        parts.append(text(box.left, box.bottom - 3, name, HALO))
    return parts


def beside(across: float, down: float, width: float) -> list[Box]:
    """Where a name may stand: at every angle around a mark, the nearest places first."""
    found = []
    for distance in range(RADIUS + 4, 160, 6):
        for eighth in (0, 4, 6, 2, 7, 1, 5, 3):  # right, left, above, below, then between
            turn = eighth * math.pi / 4
            middle = across + (distance + width / 2) * math.cos(turn)
            centre = down + (distance + FONT / 2) * math.sin(turn)
            found.append(Box(middle - width / 2, centre - 7, middle + width / 2, centre + 7))
    return found


def around(across: float, down: float) -> Box:
    return Box(across - RADIUS, down - RADIUS, across + RADIUS, down + RADIUS)


def inside(box: Box) -> bool:
    return (
        box.left >= PLOT.left
        and box.right <= PLOT.right
        and box.top >= PLOT.top
        and box.bottom <= PLOT.bottom
    )


def meets(box: Box, others: list[Box]) -> bool:
    return any(box.meets(other) for other in others)


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}'/>"


def text(x: float, y: float, content: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{escape(content)}</text>"
