"""The text that a reader of HTML sees, be it a whole page or a few tags in other text."""

import html
import re
from collections import Counter
from functools import lru_cache

from mlmtune.corpus.long_text import substituted, with_each_line

# CommonMark 0.31, HTML blocks: the start condition 6, and two that break lines all the same.
_SPACED_ELEMENTS = re.compile(
    "address|article|aside|base|basefont|blockquote|body|br|caption|center|col|colgroup|dd|details"
    "|dialog|dir|div|dl|dt|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header"
    "|hr|html|iframe|legend|li|link|main|menu|menuitem|nav|noframes|ol|optgroup|option|p|param|pre"
    "|search|section|summary|table|tbody|td|tfoot|th|thead|title|tr|track|ul"
)
_INLINE_ELEMENTS = re.compile(
    "a|abbr|acronym|area|audio|b|bdi|bdo|big|button|canvas|cite|code|data|datalist|del|dfn|em|embed"
    "|font|g|i|img|input|ins|kbd|label|map|mark|meta|meter|nobr|object|output|path|picture|progress"
    "|q|rp|rt|ruby|s|samp|script|select|slot|small|source|span|strike|strong|style|sub|sup|svg"
    "|template|textarea|time|tt|u|use|var|video|wbr"
)
_TAG_NAME = re.compile(r"</?([A-Za-z][\w:.-]*)")
# A comment that never ends goes on to the end of the text, as in a browser.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(
    r"<[!?][^<>]*>"
    r"""|</?[A-Za-z][^<>"']*(?:(?:"[^"]{0,1000}"|'[^']{0,1000}')[^<>"']*){0,50}>"""
    r"|</?[A-Za-z][^<>]*>"
)
_UNSEEN = ("script", "style", "svg", "template", "iframe")
_UNSEEN_ELEMENTS = [
    re.compile(rf"<{name}(?=[\s/>]).*?</{name}\s*>", re.DOTALL | re.IGNORECASE) for name in _UNSEEN
]
_UNSEEN_END = re.compile(rf"</(?:{'|'.join(f'({name})' for name in _UNSEEN)})\s*>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SPACES = re.compile(r"[ \t]{2,}")
_CELL_MARK = "\v"
# Most tags repeat earlier ones; long ones hardly do, and would take memory.
_NUM_REMEMBERED, _MAX_REMEMBERED = 1 << 12, 200

WORD_BREAK = "\u200b"
"""A zero-width space, which replaces `<wbr>`: a line may be broken there."""


def html_text(text: str, removed: Counter[str]) -> str:
    """Return the text without tags, comments, scripts and styles, and with entities resolved.

    Block elements begin and end a line, and ` | ` separates the cells of a row. Angle brackets that
    hold no element of HTML stay: `a < b`, `<resource-group>`.

    Args:
        text: A page, or plain text with a few tags in it.
        removed: Counts the characters that are removed, as `comments` and `html`.
    """
    shown = substituted(_COMMENT, "", text)
    removed["comments"] += len(text) - len(shown)
    written = shown
    if "<" in shown:
        written = substituted(_TAG, _written_for_match, _without_unseen(shown))
    if written != text:  # it is HTML, where white space means nothing
        written = _tidy_lines(written)
    written = substituted(_ENTITY, lambda match: html.unescape(match[0]), written)
    removed["html"] += len(shown) - len(written)
    return written


def _tidy_lines(text: str) -> str:
    """Separate the cells of each line, and leave single spaces, and none where a line ends."""
    if _CELL_MARK in text:
        text = with_each_line(_joined_cells, text)
    text = substituted(_SPACES, " ", text)
    for space in " \t":  # one at most is left
        text = text.replace(f"{space}\n", "\n").replace(f"\n{space}", "\n")
    return text.strip(" \t")


def _joined_cells(line: str) -> str:
    return line.strip(_CELL_MARK + " \t").replace(_CELL_MARK, " | ")


def _without_unseen(text: str) -> str:
    ends = _last_ends(text)
    for number, element in enumerate(_UNSEEN_ELEMENTS, start=1):
        # Only up to the last closing tag. To search for the end of each of many elements that are
        # open beyond it would take quadratic time.
        if number in ends:
            end = ends[number]
            text = substituted(element, "", text[:end]) + text[end:]
            ends = _last_ends(text)
    return text


def _last_ends(text: str) -> dict[int | None, int]:
    """Return where the last closing tag of each of `_UNSEEN` ends, by its number from 1."""
    return {match.lastindex: match.end() for match in _UNSEEN_END.finditer(text)}


def _element(tag: str) -> str:
    """Return the name of a tag's element in lower case; empty for comments and declarations."""
    name = _TAG_NAME.match(tag)
    return name[1].lower() if name else ""


def _written_for_match(match: re.Match[str]) -> str:
    tag = match[0]
    return _written(tag) if len(tag) <= _MAX_REMEMBERED else _written.__wrapped__(tag)


@lru_cache(_NUM_REMEMBERED)
def _written(tag: str) -> str:
    if _element(tag) in ("td", "th"):
        return "" if tag.startswith("</") else _CELL_MARK
    return written_for_tag(tag, "\n")


def written_for_tag(tag: str, line_end: str) -> str:
    """Return what is written instead of a tag, which is `line_end` where a browser breaks lines.

    The tag itself is returned if it is a word of the text in angle brackets: `<resource-group>`.
    """
    element = _element(tag)
    if _SPACED_ELEMENTS.fullmatch(element):
        return line_end
    if element == "wbr":
        return WORD_BREAK
    is_word = element and "=" not in tag and not _INLINE_ELEMENTS.fullmatch(element)
    return tag if is_word else ""
