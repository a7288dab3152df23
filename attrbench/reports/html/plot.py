"""Plots as data: axes, marks, lines, guides and labels in pixels, which a template draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from attrbench.reports.html.scale import Scale

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 424, 14, 274
"""The rectangle in which values are drawn; axes and their titles lie around it."""
CHARACTER, LINE = 6.9, 14.0
"""Width of a character and height of a line of labels, in pixels."""
LONGEST_LABEL = 26


@dataclass(frozen=True)
class Tick:
    """A place on an axis with the text beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a plot, with intervals where they are known.

    Attributes:
        x, y: its place.
        kind: a CSS class, which decides shape and color.
        title: what a pointer that rests on it shows.
        y_low, y_high, x_low, x_high: ends of intervals.
    """

    x: float
    y: float
    kind: str
    title: str
    y_low: float | None = None
    y_high: float | None = None
    x_low: float | None = None
    x_high: float | None = None


@dataclass(frozen=True)
class Line:
    """A line through points, as the `points` of an SVG polyline, with the CSS class that colors it."""

    points: str
    kind: str


@dataclass(frozen=True)
class Label:
    """A text in a plot, beside a mark."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Guide:
    """A horizontal line across a plot with its name, such as the expectation of a random ranking."""

    y: float
    text: str
    kind: str

    @property
    def text_y(self) -> float:
        """Return the baseline of its name, at its right end: below the line of a random ranking, above others."""
        return self.y + (12 if self.kind == "random" else -4)


@dataclass(frozen=True)
class Plot:
    """A plot: title and description for those who can't see it, axes, and what is drawn.

    Attributes:
        title: its heading.
        description: what it shows, in a sentence.
        x_title, y_title: names of the axes.
        x_ticks, y_ticks: their texts.
        legend: (CSS class, text) of each kind of line or mark that needs one.
    """

    title: str
    description: str
    x_title: str
    y_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    guides: Sequence[Guide] = ()
    labels: Sequence[Label] = ()
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Return points as SVG writes them."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def value_ticks(scale: Scale) -> list[Tick]:
    """Return the ticks of a linear scale with as few decimals as tell them apart."""
    values = scale.ticks()
    decimals = next((d for d in range(6) if all(abs(round(v, d) - v) < 1e-9 for v in values)), 6)
    return [Tick(scale.at(value), f"{value:.{decimals}f}") for value in values]


def shortened(text: str, most: int = LONGEST_LABEL) -> str:
    """Return a text of at most so many characters, with an ellipsis at its end where it was cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def place_labels(
    named: Sequence[tuple[Mark, str]], marks: Sequence[Mark], guides: Sequence[Guide] = (), kept: int = 0
) -> list[Label]:
    """Return labels beside marks, each where it covers no mark, name of a guide or earlier label; others are left out.

    Args:
        named: marks with their texts, the most important first.
        marks: all marks of the plot.
        guides: all guides of the plot.
        kept: how many of the first may cover marks, where no place is free, so that they are hardly ever left out.
    """
    taken = [(mark.x - 4, mark.y - 4, mark.x + 4, mark.y + 4) for mark in marks]
    taken += [(RIGHT - len(g.text) * CHARACTER, g.text_y - LINE, float(RIGHT), g.text_y) for g in guides]
    labels: list[Label] = []
    written: list[tuple[float, float, float, float]] = []
    for place, (mark, text) in enumerate(named):
        inside = [(label, box) for label, box in _candidates(mark, shortened(text)) if _is_inside(box)]
        free = [each for each in inside if not any(_overlap(each[1], other) for other in taken)]
        if not free and place < kept:
            free = [each for each in inside if not any(_overlap(each[1], other) for other in written)]
        for label, box in free[:1]:
            labels.append(label)
            taken.append(box)
            written.append(box)
    return labels


def _candidates(mark: Mark, text: str) -> list[tuple[Label, tuple[float, float, float, float]]]:
    """Return places of a label with the boxes that they take: right, left, above and below the mark, near and far."""
    width = len(text) * CHARACTER
    found = []
    for away in (0, LINE, -LINE, 2 * LINE, -2 * LINE):
        y = mark.y + away
        middle = y - LINE / 2, y + LINE / 2
        right, left = mark.x + 8, mark.x - 8
        found.append((Label(right, y + 4, "start", text), (right, middle[0], right + width, middle[1])))
        found.append((Label(left, y + 4, "end", text), (left - width, middle[0], left, middle[1])))
    for y in (mark.y - LINE - 1, mark.y + LINE + 1):
        box = mark.x - width / 2, y - LINE / 2, mark.x + width / 2, y + LINE / 2
        found.append((Label(mark.x, y + 4, "middle", text), box))
    return found


def _is_inside(box: tuple[float, float, float, float]) -> bool:
    return box[0] >= LEFT and box[1] >= TOP - 8 and box[2] <= WIDTH and box[3] <= BOTTOM


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
