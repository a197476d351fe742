"""HTML, whole or as remnants in other text, to what a reader of the page sees."""

import html
import re
from collections import Counter

from markdown_it.common.html_blocks import block_names

from mlmtune.corpus.long_text import substituted, with_each_line

_SPACED_ELEMENTS = frozenset((*block_names, "br", "pre"))
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
_UNSEEN_ELEMENTS = [
    (
        re.compile(rf"<{name}(?=[\s/>]).*?</{name}\s*>", re.DOTALL | re.IGNORECASE),
        re.compile(rf"</{name}\s*>", re.IGNORECASE),
    )
    for name in ("script", "style", "svg", "template", "iframe")
]
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SPACES = re.compile(r"[ \t]{2,}")
_CELL_MARK = "\v"

WORD_BREAK = "\u200b"
"""A zero-width space, in the place of `<wbr>`."""


def html_text(text: str, removed: Counter[str]) -> str:
    """The text without tags, comments, scripts and styles, and with its entities resolved.

    Elements that a browser sets apart stand on lines of their own, and ` | ` between the cells of a
    row. Angle brackets that hold no element of HTML stay: `a < b`, `<resource-group>`.

    Args:
        text: may be plain text with but a few tags in it.
        removed: takes the characters that went, as `comments` and `html`.
    """
    shown = substituted(_COMMENT, "", text)
    removed["comments"] += len(text) - len(shown)
    written = shown
    if "<" in shown:
        written = substituted(_TAG, _instead_of_tag, _without_unseen(shown))
    if written != text:  # it is HTML, where white space means nothing
        written = with_each_line(_html_line, written)
    written = substituted(_ENTITY, lambda found: html.unescape(found[0]), written)
    removed["html"] += len(shown) - len(written)
    return written


def _html_line(line: str) -> str:
    return _SPACES.sub(" ", line.strip(_CELL_MARK + " \t").replace(_CELL_MARK, " | "))


def _without_unseen(text: str) -> str:
    for element, closing_tag in _UNSEEN_ELEMENTS:
        # Only up to the last closing tag: an open element beyond it is nothing but a tag, and a
        # search for its end from each of many such would take quadratic time.
        end = max((found.end() for found in closing_tag.finditer(text)), default=0)
        if end:
            text = substituted(element, "", text[:end]) + text[end:]
    return text


def is_spaced(tag: str) -> bool:
    """Whether a browser begins a new line at this tag."""
    return _element(tag) in _SPACED_ELEMENTS


def is_word_break(tag: str) -> bool:
    """Whether a line may be broken here, as a zero-width space says, too."""
    return _element(tag) == "wbr"


def is_placeholder(tag: str) -> bool:
    """Whether angle brackets hold no element of HTML but a word of the text: `<resource-group>`."""
    element = _element(tag)
    if not element or "=" in tag:
        return False
    return element not in _SPACED_ELEMENTS and not _INLINE_ELEMENTS.fullmatch(element)


def _element(tag: str) -> str:
    """The name of a tag's element in lower case; empty for comments and declarations."""
    name = _TAG_NAME.match(tag)
    return name[1].lower() if name else ""


def _instead_of_tag(found: re.Match[str]) -> str:
    tag = found[0]
    if _element(tag) in ("td", "th"):
        return "" if tag.startswith("</") else _CELL_MARK
    if is_spaced(tag):
        return "\n"
    if is_word_break(tag):
        return WORD_BREAK
    return tag if is_placeholder(tag) else ""
