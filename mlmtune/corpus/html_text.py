"""The text that a reader of HTML sees, be it a whole page or a few tags in other text."""

import html
import re
from collections import Counter

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
        written = with_each_line(_html_line, written)
    written = substituted(_ENTITY, lambda match: html.unescape(match[0]), written)
    removed["html"] += len(shown) - len(written)
    return written


def _html_line(line: str) -> str:
    return _SPACES.sub(" ", line.strip(_CELL_MARK + " \t").replace(_CELL_MARK, " | "))


def _without_unseen(text: str) -> str:
    for element, closing_tag in _UNSEEN_ELEMENTS:
        # Only up to the last closing tag. To search for the end of each of many elements that are
        # open beyond it would take quadratic time.
        end = max((match.end() for match in closing_tag.finditer(text)), default=0)
        if end:
            text = substituted(element, "", text[:end]) + text[end:]
    return text


def _element(tag: str) -> str:
    """Return the name of a tag's element in lower case; empty for comments and declarations."""
    name = _TAG_NAME.match(tag)
    return name[1].lower() if name else ""


def _written_for_match(match: re.Match[str]) -> str:
    if _element(match[0]) in ("td", "th"):
        return "" if match[0].startswith("</") else _CELL_MARK
    return written_for_tag(match[0], "\n")


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
