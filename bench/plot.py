"""A picture of a report: a panel per test, a bar per engine, as SVG by hand.

Knows rows of (test, unit, bars) and nothing of engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BAR, GAP, HEAD, LABEL, WIDTH, VALUE = 16, 3, 30, 130, 330, 90
COLUMNS = 2
COLOURS = ("#2f6fde", "#c9782b", "#5b9e4d", "#a05bb0", "#8a8a8a", "#7aa5ee", "#e3b282")


@dataclass(frozen=True)
class Panel:
    """One test: its name, the unit, and (engine, value, colour number) of each bar."""

    title: str
    unit: str
    bars: Sequence[tuple[str, float, int]]

    @property
    def height(self) -> int:
        """In pixels."""
        return HEAD + len(self.bars) * (BAR + GAP) + 14


def svg(title: str, panels: Sequence[Panel]) -> str:
    """Return the picture as text."""
    width = COLUMNS * (LABEL + WIDTH + VALUE) + 20
    top = 44
    parts: list[str] = []
    for first in range(0, len(panels), COLUMNS):
        row = panels[first : first + COLUMNS]
        for column, panel in enumerate(row):
            parts += _panel(panel, 10 + column * (LABEL + WIDTH + VALUE), top)
        top += max(panel.height for panel in row)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + 8}" '
        f'viewBox="0 0 {width} {top + 8}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="10" y="26" font-size="16" font-weight="bold">{escape(title)}</text>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: int, top: int) -> list[str]:
    longest = max((value for _, value, _ in panel.bars), default=1.0) or 1.0
    title = f"{panel.title} ({panel.unit})"
    parts = [f'<text x="{left}" y="{top + 18}" font-weight="bold">{escape(title)}</text>']
    for number, (name, value, colour) in enumerate(panel.bars):
        y = top + HEAD + number * (BAR + GAP)
        length = max(1.0, WIDTH * value / longest)
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        paint = COLOURS[colour % len(COLOURS)]
        parts += [
            f'<text x="{left + LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" '
            f'fill="{paint}"/>',
            f'<text x="{left + LABEL + length + 5:.1f}" y="{y + 12}">{shown}</text>',
        ]
    return parts
