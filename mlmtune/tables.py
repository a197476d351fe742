"""Tables and histograms as lines of text."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from mlmtune.console import coloured
from mlmtune.printable import shown_width

BAR_WIDTH = 40
"""Columns of a terminal that the longest bar of a histogram takes."""


def table(
    rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), indent: str = ""
) -> Iterator[str]:
    """Align rows in columns.

    Args:
        rows: The cells of each row. A cell may have several lines.
        left: The numbers of the columns that are aligned to the left; the others are to the right.
        indent: What each line begins with.
    """
    widths = [cell_width(column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.split("\n") for cell in row]
        for texts in zip_longest(*cells, fillvalue=""):
            line = []
            for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
                padding = " " * (width - shown_width(text))
                line.append(text + padding if column in left else padding + text)
            yield f"{indent}{'  '.join(line)}".rstrip()


def cell_width(cells: Sequence[str]) -> int:
    """Return the columns of a terminal that the widest line of some cells takes."""
    return max(shown_width(line) for cell in cells for line in cell.split("\n"))


def histogram(rows: Sequence[tuple[str, int, str]], *, colour: str = "") -> Iterator[str]:
    """Draw a bar for each count.

    Args:
        rows: A label, a count, and what is written behind the bar.
        colour: The escape sequence of the colour of the bars; without one they have none.
    """
    largest = max((count for _, count, _ in rows), default=0)
    bars = [
        # The smallest count above 0 has a bar, too.
        (label, coloured("█" * -(-BAR_WIDTH * count // max(largest, 1)), colour), text)
        for label, count, text in rows
    ]
    width = max((shown_width(label) for label, _, _ in bars), default=0)
    for label, bar, text in bars:
        yield f"  {' ' * (width - shown_width(label))}{label}  {bar}{' ' * bool(bar)}{text}"
