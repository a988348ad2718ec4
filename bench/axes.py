"""Pictures with axes: points, lines and labels that keep clear of each other, as SVG by hand.

Readable on a light and on a dark page: the colours follow the reader's wish. Pure; knows nothing
of models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from bench.plot import COLOURS

SIZE = 12  # of the letters, in pixels
LETTER = 0.58  # the mean width of a letter in units of SIZE: an estimate, on the safe side
STEP = 4  # pixels: less than the height of a letter
CLEAR = 6  # pixels between a mark and its label
STYLE = (
    "<style>text{paint-order:stroke;stroke:#ffffff;stroke-width:3px}"
    ".page{fill:#ffffff}.ink{fill:#1f2328}.soft{fill:#59636e}"
    ".grid{stroke:#d1d9e0}.mark{stroke:#8b5a00}.said{fill:#8b5a00}"
    "@media(prefers-color-scheme:dark){text{stroke:#0d1117}.page{fill:#0d1117}.ink{fill:#f0f6fc}.soft{fill:#9198a1}"
    ".grid{stroke:#3d444d}.mark{stroke:#e3b341}.said{fill:#e3b341}}</style>"
)


@dataclass(frozen=True)
class Axis:
    """One direction: what it shows and its unit, its ends, and the values that are written."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high one."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} lies outside {self.low} to {self.high} of {self.title!r}")
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass
class Picture:
    """A page that is drawn on; y counts from the top, in pixels."""

    title: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def text(
        self, x: float, y: float, said: str, *, anchor: str = "start", style: str = "ink"
    ) -> None:
        """Write a line of text; y is its base line."""
        self.taken.append(_box(x, y, said, anchor))
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
            f"{escape(said)}</text>"
        )

    def line(
        self, points: Sequence[tuple[float, float]], style: str = "grid", colour: int | None = None
    ) -> None:
        """Draw a line through points, dashed if its style is "mark"; labels keep off colours."""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        paint = f'class="{style}"' if colour is None else f'stroke="{_paint(colour)}"'
        width = 1 if colour is None else 2
        dashes = ' stroke-dasharray="4 3"' if style == "mark" else ""
        self.parts.append(
            f'<polyline points="{way}" fill="none" {paint} stroke-width="{width}"{dashes}/>'
        )
        if colour is not None:
            self.taken += [
                (x - 1, y - 1, x + 1, y + 1)
                for one, other in pairwise(points)
                for x, y in _between(one, other)
            ]

    def mark(self, x: float, y: float, colour: int, shape: str = "circle") -> None:
        """Draw a mark: a circle, a square or a diamond."""
        paint = f'fill="{_paint(colour)}"'
        self.taken.append((x - 5, y - 5, x + 5, y + 5))
        if shape == "circle":
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {paint}/>')
            return
        turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "diamond" else ""
        self.parts.append(
            f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {paint}{turn}/>'
        )

    def label(self, x: float, y: float, said: str, style: str = "soft") -> None:
        """Write beside a mark, where nothing is yet; call it when all marks are drawn.

        Raises ValueError where there is no such place: the picture must be larger.
        """
        far = 2 * CLEAR + SIZE
        below, above = y + SIZE + CLEAR, y - CLEAR - 2
        places = [(x + CLEAR + 3, y + 4, "start"), (x - CLEAR - 3, y + 4, "end")]
        places += [(x, above, "middle"), (x, below, "middle")]
        places += [(x + CLEAR, below, "start"), (x - CLEAR, above, "end")]
        places += [(x + CLEAR, above, "start"), (x - CLEAR, below, "end")]
        places += [(x, y - far, "middle"), (x, y + far + SIZE, "middle")]
        places += [(x - 2 * CLEAR, y + far, "end"), (x + 2 * CLEAR, y - far, "start")]
        for left, base, anchor in places:
            box = _box(left, base, said, anchor)
            inside = box[0] >= 0 and box[2] <= self.width
            if inside and not any(_meet(box, other) for other in self.taken):
                self.text(left, base, said, anchor=anchor, style=style)
                return
        raise ValueError(f"there is no room for the label {said!r} in {self.title!r}")

    def svg(self) -> str:
        """Return the picture as text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="sans-serif" '
            f'font-size="{SIZE}" role="img">\n<title>{escape(self.title)}</title>\n{STYLE}\n'
            '<rect width="100%" height="100%" class="page"/>\n'
            f'<text x="16" y="26" font-size="16" font-weight="bold" class="ink">'
            f"{escape(self.title)}</text>"
        )
        return "\n".join([head, *self.parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class Field:
    """A part of a picture with two axes."""

    picture: Picture
    x: Axis
    y: Axis
    left: int
    top: int
    width: int
    height: int

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixels of a point."""
        return (
            self.left + self.width * self.x.share(x),
            self.top + self.height * (1 - self.y.share(y)),
        )

    def draw(self, title: str = "") -> None:
        """Draw both axes with their grid, values and titles."""
        picture, bottom = self.picture, self.top + self.height
        if title:
            picture.text(self.left, self.top - 12, title)
        for value in self.x.ticks:
            x, _ = self.place(value, self.y.low)
            picture.line([(x, self.top), (x, bottom)])
            picture.text(x, bottom + 16, f"{value:,g}", anchor="middle", style="soft")
        for value in self.y.ticks:
            _, y = self.place(self.x.low, value)
            picture.line([(self.left, y), (self.left + self.width, y)])
            picture.text(self.left - 8, y + 4, f"{value:,g}", anchor="end", style="soft")
        middle = self.left + self.width / 2
        picture.text(middle, bottom + 36, self.x.title, anchor="middle")
        turned, centre = self.left - 44, self.top + self.height / 2
        picture.parts.append(
            f'<text x="{turned}" y="{centre:.1f}" text-anchor="middle" class="ink" '
            f'transform="rotate(-90 {turned} {centre:.1f})">{escape(self.y.title)}</text>'
        )

    def points(
        self,
        values: Sequence[tuple[float, float, str]],
        colour: int,
        *,
        shape: str = "circle",
        joined: bool = True,
    ) -> list[tuple[float, float, str]]:
        """Draw marks, joined by a line if wanted; return their pixels and labels, for `label`."""
        places = [(*self.place(x, y), said) for x, y, said in values]
        if joined:
            self.picture.line([(x, y) for x, y, _ in places], colour=colour)
        for x, y, _ in places:
            self.picture.mark(x, y, colour, shape)
        return places


def _between(one: tuple[float, float], other: tuple[float, float]) -> Iterator[tuple[float, float]]:
    """Yield places on the way from one to the other, STEP pixels apart."""
    steps = max(1, int(math.dist(one, other) / STEP))
    for step in range(steps + 1):
        share = step / steps
        yield one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])


def _paint(colour: int) -> str:
    return COLOURS[colour % len(COLOURS)]


def _box(x: float, y: float, said: str, anchor: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a line of text."""
    wide = LETTER * SIZE * len(said)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, y - SIZE + 2, left + wide, y + 3


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
