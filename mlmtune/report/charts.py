"""Charts as SVG without scripts; colours and fonts come from the style sheet of the page.

A chart is 360 units wide, like the screen of a phone, and scales with its container. Each series
has a colour and a name. For readers who do not see it, a chart says its numbers in words.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

from mlmtune.printable import shown_width

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 26, 34
SQUARE = 320
"""The height of a trade-off chart."""
MARGIN = 16
"""The space beside the axis of an interval chart, for the labels at its ends."""
LINE = 17
"""The height of a line of the legend."""
ROW = 40
AXIS = 34
"""The height of the axis below an interval chart."""
NUM_TICKS = 4
NUM_COLOURS = 6
LONGEST_NAME = 26
MOST_POINTS = 400
"""A longer series is thinned out, because no screen shows more points."""


@dataclass(frozen=True)
class Series:
    """A line of a chart, with its name in the legend; `points` are (x, y), sorted by x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """A part of the axis of steps with a name above it, such as a phase."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Range:
    """A row of an interval chart.

    Attributes:
        name: The text above it at the left.
        value: The position of the dot.
        interval: The ends of the bar; None for a row without a bar.
        shown: The text above it at the right: the value and its interval.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    shown: str
    colour: int


@dataclass(frozen=True)
class Spot:
    """A point of a trade-off chart.

    Attributes:
        name: The text beside it.
        x, y: Its place.
        x_interval, y_interval: The ends of its bars; its place twice for none.
        shown: Its values and their intervals, for readers who do not see the chart.
    """

    name: str
    x: float
    y: float
    x_interval: tuple[float, float]
    y_interval: tuple[float, float]
    shown: str
    colour: int


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    may_be_log: bool = False,
    bands: Sequence[Band] = (),
) -> str:
    """Draw lines over training steps; return an empty string if there is nothing to draw.

    With `may_be_log`, the scale is logarithmic if the values span more than a factor of ten.
    Every other band is shaded.
    """
    series = [Series(s.name, _thinned(s.points)) for s in series if len(s.points) > 0]
    values = [y for s in series for _, y in s.points if math.isfinite(y)]
    if not values:
        return ""
    low, high = min(values), max(values)
    is_log = may_be_log and low > 0 and high / low > 10
    if low == high:  # a flat line, around which the axis needs some room
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    ticks = list(_log_ticks(low, high) if is_log else _ticks(low, high))
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    right = max(max(x for x, _ in s.points) for s in series) or 1.0
    scale = math.log if is_log else float

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def at_y(y: float) -> float:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = []
    for number, band in enumerate(bands):
        x, end = (at_x(min(step, right)) for step in (band.begin, band.end))
        if number % 2:
            parts.append(
                f'<rect class="band" x="{x:.1f}" y="{TOP}" width="{end - x:.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM}"/>'
            )
        room = int((end - x) / 6.5)  # characters of a tick's size
        if room > 2:
            shown = band.name if len(band.name) <= room else f"{band.name[: room - 1]}…"
            parts.append(
                f'<text class="tick middle" x="{(x + end) / 2:.1f}" y="{TOP + 12}">'
                f"{escape(shown)}</text>"
            )
    for tick in ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" {_ys(y)}/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{_short(tick)}</text>')
    for tick in _ticks(0, right):
        parts.append(
            f'<text class="tick middle" x="{at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}">'
            f"{_short(tick)}</text>"
        )
    parts.append(f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">step</text>')
    for number, line in enumerate(series):
        points = [(at_x(x), at_y(y)) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = f"c{(number + 1) % NUM_COLOURS}"
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if len(points) <= 12:  # more dots would hide the line
            parts += [f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
                      for x, y in points]  # fmt: skip
    legend, above = _legend([line.name for line in series])
    return _svg(title, map(_in_words, series), HEIGHT, [*parts, *legend], above)


def interval_chart(title: str, rows: Sequence[Range]) -> str:
    """Draw a dot and its interval for each row, on an axis with a line at zero.

    Args:
        title: What is measured, and its unit behind a comma.
        rows: The rows, from the top.
    """
    if not rows:
        return ""
    values: list[float] = [0.0, *(b for row in rows for b in (row.value, *(row.interval or ())))]
    low, high = min(values), max(values)
    if low == high:  # all values are 0
        high = 1.0
    ticks = list(_ticks(low, high))
    left, right, bottom = MARGIN, WIDTH - MARGIN, ROW * len(rows)

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = []
    for tick in ticks:
        x, kind = f"{at(tick):.1f}", "zero" if tick == 0 else "grid"
        parts += [  # not through the names
            f'<line class="{kind}" x1="{x}" x2="{x}" y1="{ROW * n + 18}" y2="{ROW * n + 38}"/>'
            for n in range(len(rows))
        ]
        parts.append(f'<text class="tick middle" x="{x}" y="{bottom + 17}">{_short(tick)}</text>')
    unit = escape(title.rpartition(", ")[2])
    parts.append(f'<text class="tick end" x="{WIDTH}" y="{bottom + AXIS - 3}">{unit}</text>')
    for number, row in enumerate(rows):
        top, y = ROW * number + 12, ROW * number + 28
        colour = f"c{row.colour % NUM_COLOURS}"
        if row.interval is not None:
            begin, end = (at(bound) for bound in row.interval)
            parts.append(f'<line class="bar {colour}" x1="{begin:.1f}" x2="{end:.1f}" {_ys(y)}/>')
        parts.append(f'<circle class="dot {colour}" cx="{at(row.value):.1f}" cy="{y}" r="5"/>')
        parts.append(f'<text x="0" y="{top}">{_cut(row.name)}</text>')
        parts.append(f'<text class="end" x="{WIDTH}" y="{top}">{escape(row.shown)}</text>')
    words = [f"{row.name}: {row.shown}" for row in rows]
    return _svg(title, words, bottom + AXIS, parts)


def trade_off_chart(
    title: str, axes: tuple[str, str], path: Sequence[Spot], others: Sequence[Spot] = ()
) -> str:
    """Draw what is won by one measure against what is lost by another, with intervals of both.

    Args:
        title: What is shown.
        axes: What is measured along the horizontal and the vertical axis, with units.
        path: Points that a line connects.
        others: Points beside it.
    """
    spots = [*path, *others]
    x_ticks, x_low, x_high = _span(bound for spot in spots for bound in (spot.x, *spot.x_interval))
    y_ticks, y_low, y_high = _span(bound for spot in spots for bound in (spot.y, *spot.y_interval))
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, SQUARE - BOTTOM

    def at_x(x: float) -> float:
        return left + (right - left) * (x - x_low) / (x_high - x_low)

    def at_y(y: float) -> float:
        return bottom - (bottom - top) * (y - y_low) / (y_high - y_low)

    parts = []
    for tick in y_ticks:
        y, kind = at_y(tick), "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{left}" x2="{right}" {_ys(y)}/>')
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + 4:.1f}">{_short(tick)}</text>')
    for tick in x_ticks:
        x, kind = at_x(tick), "zero" if tick == 0 else "grid"
        ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"'
        parts.append(f'<line class="{kind}" {ends}/>')
        label = f'x="{x:.1f}" y="{bottom + 15}">{_short(tick)}'
        parts.append(f'<text class="tick middle" {label}</text>')
    parts.append(f'<text class="tick end" x="{WIDTH}" y="{SQUARE - 4}">{escape(axes[0])}</text>')
    parts.append(f'<text class="tick" x="0" y="11">{escape(axes[1])}</text>')
    line = " ".join(f"{at_x(spot.x):.1f},{at_y(spot.y):.1f}" for spot in path)
    parts.append(f'<polyline class="line c1" points="{line}"/>')
    dots = ((at_x(spot.x), at_y(spot.y)) for spot in spots)
    taken = [(x - 5, x + 5, y - 5, y + 5) for x, y in dots]
    for spot in spots:
        x, y, colour = at_x(spot.x), at_y(spot.y), f"c{spot.colour % NUM_COLOURS}"
        (x1, x2), (y1, y2) = map(at_x, spot.x_interval), map(at_y, spot.y_interval)
        parts.append(f'<line class="whisker {colour}" x1="{x1:.1f}" x2="{x2:.1f}" {_ys(y)}/>')
        parts.append(
            f'<line class="whisker {colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" '
            f'y2="{y2:.1f}"/>'
        )
        parts.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(_label(spot.name, x, y, taken))
    return _svg(title, [f"{spot.name}: {spot.shown}" for spot in spots], SQUARE, parts)


def _label(name: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> str:
    """Write a name beside its point where nothing is yet, and note that its place is taken."""
    width = 6.5 * min(shown_width(name), LONGEST_NAME)
    places = []
    for is_left, baseline in product((False, True), (y - 7, y + 16)):
        left = x - 8 - width if is_left else x + 8
        box = (left, left + width, baseline - 10, baseline + 2)
        hits = sum(
            left < t_right and t_left < left + width and box[2] < t_bottom and t_top < box[3]
            for t_left, t_right, t_top, t_bottom in taken
        )
        is_outside = left < LEFT or left + width > WIDTH or baseline > SQUARE - BOTTOM
        places.append((is_outside, hits, is_left, baseline, box))
    *_, is_left, baseline, box = min(places, key=lambda place: place[:2])
    taken.append(box)
    side = f'class="end" x="{x - 8:.1f}"' if is_left else f'x="{x + 8:.1f}"'
    return f'<text {side} y="{baseline:.1f}">{_cut(name)}</text>'


def _span(values: Iterable[float]) -> tuple[list[float], float, float]:
    """Return the ticks of an axis that includes 0, and its ends."""
    bounds = [0.0, *values]
    low, high = min(bounds), max(bounds)
    if low == high:  # all values are 0
        high = 1.0
    room = 0.04 * (high - low)  # so that no point lies on the edge
    return list(_ticks(low - room, high + room, 6)), low - room, high + room


def _in_words(line: Series) -> str:
    (first, before), (last, after) = line.points[0], line.points[-1]
    lowest = min(y for _, y in line.points)
    return (
        f"{line.name}: {_short(before)} at step {first:,.0f}, {_short(after)} at step {last:,.0f}, "
        f"lowest {_short(lowest)}"
    )


def _svg(
    title: str, words: Iterable[str], height: int, parts: Sequence[str], above: int = 0
) -> str:
    """Put a chart together, with some room above its zero."""
    label = escape(f"{title}. {'; '.join(words)}", quote=True)
    return (
        f'<svg viewBox="0 {-above} {WIDTH} {height + above}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """Return the parts of the legend, and the height of its lines above the first."""
    places: list[tuple[float, int]] = []
    x, line = float(LEFT), 0
    for name in names:
        width = 28 + 7.5 * min(shown_width(name), LONGEST_NAME)  # about that of a character
        if places and x + width > WIDTH:
            x, line = float(LEFT), line + 1
        places.append((x, line))
        x += width
    parts = []
    for number, (name, (x, of)) in enumerate(zip(names, places, strict=True)):
        y = 10 - LINE * (line - of)
        colour = f"c{(number + 1) % NUM_COLOURS}"
        parts.append(f'<circle class="dot {colour}" cx="{x + 5:.0f}" cy="{y}" r="5"/>')
        parts.append(f'<text x="{x + 15:.0f}" y="{y + 4}">{_cut(name)}</text>')
    return parts, LINE * line


def _cut(name: str) -> str:
    return escape(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")


def _ys(y: float) -> str:
    return f'y1="{y:.1f}" y2="{y:.1f}"'


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = -(-len(points) // MOST_POINTS)
    return [*points[::every], points[-1]] if every > 1 else points


def _ticks(low: float, high: float, at_most: int = NUM_TICKS) -> Iterator[float]:
    """Yield round numbers that cover a range."""
    rough = (high - low) / at_most
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    number = math.floor(low / step)
    # Rounding must not lose a tick at either end.
    while number * step <= high + step * 1e-9:
        if number * step >= low - step * 1e-9:
            yield number * step
        number += 1


def _log_ticks(low: float, high: float) -> Iterator[float]:
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for factor in (1, 2, 5):
            if low <= factor * 10**exponent <= high:
                yield factor * 10.0**exponent


def _short(value: float) -> str:
    """Write the label of a tick in few characters."""
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.4f}".rstrip("0").rstrip(".")
