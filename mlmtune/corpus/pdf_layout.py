"""The layout of a PDF: paragraphs, which are made of the lines that its pages have.

A PDF knows where characters are, and nothing of paragraphs, running heads or hyphens. All of these
follow from the positions of lines, in points (1/72 inch) from the lower left corner of a page.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import NamedTuple

HYPHEN = "\x02"
"""What ends a line in the middle of a word; PDFium reports each hyphen at a line end so."""

_FEWEST_PAGES = 3
"""A line is a running head if it is on as many pages, at one height."""
_EDGE_ROWS = 2
_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b")
_LEADERS = re.compile(r"(?:\s?[.\u2026\u00b7]){4,}\s*[\divxlc]*\s*\Z")
_ITEM = re.compile(
    r"(?:[\u2022\u2023\u25aa\u25cf\u25e6\u2043*\u2013-]|\(?(?:\d{1,3}|[A-Za-z]|[ivx]+)[.)]|\[\w+\])\s"
)
_ENDS_SENTENCE = re.compile(r"[.!?:;\u2026\u3002\uff01\uff1f][\"')\]\u201d\u2019]*\Z")
_CUT_WORD = re.compile(rf"([^\W\d_]+)({HYPHEN})(\w+)")
_COMPOUND = re.compile(r"\w+(?:-\w+)*")
_LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
     "\ufb05": "st", "\ufb06": "st"}
)  # fmt: skip


class Line(NamedTuple):
    """A line of a page, with its box in points.

    Attributes:
        baseline: The height of its letters above the bottom of the page.
        height: The height of its largest letters.
        first_word: The width of its first word.
        is_code: Whether it begins and ends in a font whose letters are all equally wide.
    """

    text: str
    left: float
    right: float
    baseline: float
    height: float
    first_word: float
    is_code: bool = False


def paragraphs(pages: list[list[Line]], *, keeps_boilerplate: bool = False) -> tuple[str, int]:
    """Return the text of a document, with a blank line between paragraphs.

    Running heads, page numbers and the lines of a table of contents are left out. Words that are
    hyphenated at a line end are joined. A paragraph that continues on the next page is one.

    Args:
        pages: The lines of each page, in the order of reading.
        keeps_boilerplate: Whether what would be left out stays.

    Returns:
        The text, and the number of characters that are left out.
    """
    num_removed = 0
    if not keeps_boilerplate:
        bodies = [
            [line for line in page if line not in heads and not _LEADERS.search(line.text)]
            for page, heads in zip(pages, _running_heads(pages), strict=True)
        ]
        num_removed = _num_characters(pages) - _num_characters(bodies)
        pages = bodies
    leading = _leading(pages)
    parts: list[str] = []
    previous: Line | None = None
    for page in pages:
        for number, block in enumerate(_blocks(page, leading)):
            if previous is not None:
                is_behind = number == 0 or block[0].baseline >= previous.baseline
                parts.append(" " if is_behind and _continues(previous, block[0]) else "\n\n")
            parts.append(_written(block))
            previous = block[-1]
    text = "".join(parts).replace(f"{HYPHEN} ", HYPHEN)
    return _with_whole_words(text).translate(_LIGATURES), num_removed


def _num_characters(pages: list[list[Line]]) -> int:
    return sum(len(line.text) for page in pages for line in page)


def _running_heads(pages: list[list[Line]]) -> Iterator[set[Line]]:
    """Yield the lines of each page that are repeated at its top or bottom, but for numbers."""
    edges = [_edges(page) for page in pages]
    counts = Counter(key for rows in edges for key in set(map(_key, rows)))
    repeated = {key for key, count in counts.items() if count >= _FEWEST_PAGES}
    # The title of a chapter is at the height of other running heads, but not on many pages.
    heights = {height for height, _ in repeated}
    for rows in edges:
        yield {line for row in rows if _key(row)[0] in heights for line in row}


def _edges(page: list[Line]) -> list[list[Line]]:
    """Return the rows at the top and bottom of a page that a gap separates from its text."""
    rows: list[list[Line]] = []
    for line in sorted(page, key=lambda line: -line.baseline):
        if rows and rows[-1][0].baseline - line.baseline < line.height / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    gaps = [
        above[0].baseline - below[0].baseline - below[0].height for above, below in pairwise(rows)
    ]
    # How many rows there are up to a gap.
    wide = [
        number for number, gap in enumerate(gaps, start=1) if gap > 0.7 * rows[number][0].height
    ]
    num_top = max((number for number in wide if number <= _EDGE_ROWS), default=0)
    num_bottom = max((len(rows) - n for n in wide if len(rows) - n <= _EDGE_ROWS), default=0)
    return rows[:num_top] + rows[len(rows) - num_bottom :]


def _key(row: list[Line]) -> tuple[int, str]:
    """Return the height of a row, and its text without numbers."""
    text = " ".join(line.text for line in sorted(row, key=lambda line: line.left))
    return round(row[0].baseline), _NUMBER.sub("0", text.casefold())


def _leading(pages: list[list[Line]]) -> float:
    """Return the usual distance of two lines, as a multiple of their height."""
    distances = [
        (above.baseline - below.baseline) / below.height
        for page in pages
        for above, below in pairwise(page)
        if below.height > 0 and 0.5 < (above.baseline - below.baseline) / below.height < 3
    ]
    return median(distances) if distances else 1.2


def _blocks(page: list[Line], leading: float) -> Iterator[list[Line]]:
    """Yield lines of one size that follow each other without a gap."""
    block: list[Line] = []
    for line in page:
        if block and not _is_next(block[-1], line, leading):
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _is_next(above: Line, below: Line, leading: float) -> bool:
    distance = above.baseline - below.baseline
    if abs(distance) < below.height / 2:  # on the same row
        return below.left >= above.left
    same_size = abs(above.height - below.height) <= 0.15 * above.height
    return same_size and 0 < distance <= 1.25 * leading * below.height


def _continues(before: Line, after: Line) -> bool:
    """Whether a paragraph goes on behind the end of a page or column."""
    same_size = abs(before.height - after.height) <= 0.05 * before.height
    is_cut = not _ENDS_SENTENCE.search(before.text) and after.text[:1].islower()
    return same_size and (is_cut or before.text.endswith(HYPHEN))


def _written(block: list[Line]) -> str:
    """Return the lines of a block: joined, unless it was the author who broke them."""
    margin = max(line.right for line in block)
    parts, is_first = [block[0].text], True
    for above, below in pairwise(block):
        shift = (below.left - above.left) / below.height
        on_same_row = abs(above.baseline - below.baseline) < below.height / 2
        # The next word would have fit.
        is_broken = above.right + 0.3 * below.height + below.first_word < margin - 1
        is_item = _ITEM.match(below.text) is not None
        if on_same_row or above.text.endswith(HYPHEN):
            join = " "
        elif above.is_code and below.is_code:
            join = "\n"
        elif (
            shift > 0.8
            and is_broken == bool(_ENDS_SENTENCE.search(above.text))
            and not (_ITEM.match(above.text))
        ):
            join = "\n\n"  # the indented first line of a paragraph
        elif is_broken or is_item or (shift < -0.8 and not is_first):
            join = "\n"
        else:
            join = "" if _is_wide(above.text[-1]) and _is_wide(below.text[0]) else " "
        is_first = join.startswith("\n")
        parts += [join, below.text]
    return "".join(parts)


def _is_wide(character: str) -> bool:
    """Whether no space separates this character from the next: ideographs and kana."""
    return unicodedata.east_asian_width(character) in "WF"


def _with_whole_words(text: str) -> str:
    """Join the words that are cut at a line end, as the rest of the document spells them."""
    if HYPHEN not in text:
        return text
    known = {word.casefold() for word in _COMPOUND.findall(text)}

    def joined(match: re.Match[str]) -> str:
        left, _, right = match.groups()
        if f"{left}{right}".casefold() in known:
            return left + right
        is_alike = right[0].islower() or (left.isupper() and right.isupper())
        is_compound = f"{left}-{right}".casefold() in known or not is_alike
        return f"{left}-{right}" if is_compound else left + right

    return _CUT_WORD.sub(joined, text).replace(HYPHEN, "-")
