"""Raw text to the text a model learns from.

Markdown is parsed, not searched: markdown-it tells what is prose, code, table or HTML, and this
module writes each as plain lines. What only a renderer needs (marks, link targets, comments,
directives of a docs site) is nothing to predict, and goes.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

import xxhash
from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names
from markdown_it.token import Token

from mlmtune.config import MarkdownConfig

CLEANING_VERSION = 1
"""To be raised with every change of what cleaning yields: stored tokens are made anew."""

# One search tells that most texts need nothing done.
_IRREGULAR = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def normalize(text: str) -> str:
    """Text with one kind of line end, without control characters and byte order marks.

    Halves of surrogate pairs, which JSON can spell but no encoding holds, become U+FFFD.
    """
    if not _IRREGULAR.search(text):
        return text
    text = _LINE_ENDS.sub("\n", text)
    text = _CONTROLS.sub("", text)
    return _SURROGATES.sub("\ufffd", text)


def clean_plain(text: str) -> str:
    """Normalised text without white space at its ends; all else stays as it is."""
    return normalize(text).strip()


_HASH_SLICE_CHARACTERS = 1 << 20
_WHITE_SPACE = re.compile(r"\s")


def content_hash(text: str) -> int:
    """128 bits that are equal for texts that differ in white space and Unicode composition only."""
    state = xxhash.xxh3_128()
    # A slice ends at white space, so that no word and no composed character is cut.
    start, separator = 0, b""
    while start < len(text):
        space = _WHITE_SPACE.search(text, start + _HASH_SLICE_CHARACTERS)
        end = space.start() if space else len(text)
        words = " ".join(unicodedata.normalize("NFC", text[start:end]).split())
        if words:
            state.update(separator)
            state.update(words.encode())
            separator = b" "
        start = end
    return state.intdigest()


# Each level costs a few frames of Python's stack. The parser drops blocks that are deeper, and
# takes deeper inline marks for text; its time for a row of open brackets grows with the limit.
_MAX_BLOCK_NESTING = 100
_MAX_INLINE_NESTING = 20

# Its first line but for comments has to look like YAML: a page may open with a rule.
_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?=---|\.\.\.|(?:[ \t]*(?:#.*)?\n)*[\w\"'.-]+[ \t]*:)"
    r"(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
)
_ATTRIBUTE = r"""(?:\s+[\w-]+\s*=\s*(?:"[^"]*"|'[^']*'))"""
_DIRECTIVE = re.compile(
    rf"""
      (?P<code>(?P<ticks>`+)(?!`).{{1,500}}?(?<!`)(?P=ticks)(?!`))
    | :::+[ \t]*image\b(?P<image>{_ATTRIBUTE}*)\s*(?::::*|$)
    | ^[ \t]*:::+[ \t]*(?:[A-Za-z][^\n]*)?$\n?           # ::: zone pivot="x", ::: on its own
    | \[![\w-]+\s*\[[^][\n]*\]\s*\([^()\n]*\)\s*\]?      # [!INCLUDE [title](file)]
    | \[!(?:div|video)\b[^]\n]*\]                        # [!div class="checklist"]
    | ^[ \t]*\[!\w+\][ \t]*\n?                           # [!NOTE]
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
_ALTERNATIVE_TEXT = re.compile(r"""\balt-text\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_TAB_HEADING = re.compile(r"\[(.+?)\]\(#tab/[^)]*\)\s*$")
_TASK_BOX = re.compile(r"\A\[[ xX]\][ \t]+")
_HEADING_ID = re.compile(r"\s*\{#[\w.:-]+\}\s*$")

# No prose has paragraphs as long; parsed, one would take hundreds of times its size in memory.
_MAX_PARAGRAPH_CHARACTERS = 1 << 18

# Inline text without any of these means itself.
_INLINE_MARKUP = re.compile(r"[\\`*_~\[<&]|  \n")
_WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
_BREAK_BETWEEN_WIDE = re.compile(f"(?<=[{_WIDE}])[ \t]*\n[ \t]*(?=[{_WIDE}])")
_SOFT_BREAK = re.compile(r"[ \t]*\n[ \t]*")
_HARD_BREAK = re.compile(r"[ \t]*\v[ \t\v]*")
_SPACES = re.compile(r"[ \t]{2,}")


class _Parser(MarkdownIt):
    """markdown-it without what protects a browser: here every link target is but text."""

    def validateLink(self, url: str) -> bool:
        return True

    def normalizeLink(self, url: str) -> str:
        return url


@cache
def _block_parser() -> MarkdownIt:
    """A parser that leaves inline text for later, which is most often free of markup."""
    parser = _Parser("commonmark", {"maxNesting": _MAX_BLOCK_NESTING}).enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    return _Parser("commonmark", {"maxNesting": _MAX_INLINE_NESTING}).enable("strikethrough")


def clean_markdown(text: str, config: MarkdownConfig) -> str:
    """The prose of a Markdown page, with its code and tables where the config keeps them.

    Blocks are separated by a blank line, the items of a tight list and the rows of a table by a
    line end. Headings and items are plain lines; bullets, numbers and emphasis marks go, and so do
    front matter and comments. A page nested over a hundred levels deep is given as it stands.
    """
    source = normalize(text).lstrip("\n")
    front_matter = _FRONT_MATTER.match(source)
    if front_matter:
        source = source[front_matter.end() :]
    environment: dict[str, Any] = {}
    tokens = _block_parser().parse(source, environment)
    if any(token.level >= _MAX_BLOCK_NESTING - 1 for token in tokens):
        return source.strip()
    return _Page(config, environment).write(tokens)


class _Page:
    """Writes the tokens of one page as text."""

    def __init__(self, config: MarkdownConfig, environment: dict[str, Any]) -> None:
        self.config = config
        self.environment = environment
        """Reference definitions of the page, found by the block parser."""

    def write(self, tokens: list[Token]) -> str:
        parts: list[str] = []
        previous_is_tight = False
        for block, is_tight in self._blocks(tokens):
            if block.strip():
                if parts:
                    parts.append("\n" if is_tight and previous_is_tight else "\n\n")
                parts.append(block.strip("\n"))
                previous_is_tight = is_tight
        return "".join(parts).strip()

    def _blocks(self, tokens: list[Token]) -> Iterator[tuple[str, bool]]:
        """The text of each block, and whether it is a paragraph of a tight list."""
        rows: list[str] = []
        cells: list[str] = []
        opening = Token("paragraph_open", "p", 1)
        for token in tokens:
            match token.type:
                case "heading_open" | "paragraph_open" | "th_open" | "td_open":
                    opening = token
                case "inline":
                    if opening.tag in ("th", "td"):
                        cells.append(self._inline(token.content).replace("\n", " "))
                    elif opening.type == "heading_open":
                        yield self._heading(token.content), False
                    else:
                        yield _TASK_BOX.sub("", self._inline(token.content)), opening.hidden
                case "fence":
                    yield self._code(token.content), False
                case "code_block":
                    # On the site's pages an indent too much makes code of a directive.
                    yield self._code(self._without_directives(token.content)), False
                case "html_block" if self.config.html == "text":
                    yield _html_text(token.content), False
                case "tr_close":
                    rows.append(" | ".join(cells).strip(" |"))
                    cells = []
                case "table_close":
                    if self.config.tables == "text":
                        yield "\n".join(row for row in rows if row), False
                    rows = []

    def _code(self, content: str) -> str:
        return content.rstrip() if self.config.code_blocks == "keep" else ""

    def _heading(self, content: str) -> str:
        if self.config.directives == "drop":
            content = _HEADING_ID.sub("", _TAB_HEADING.sub(r"\1", content))
        return self._inline(content)

    def _without_directives(self, content: str) -> str:
        if self.config.directives == "keep" or not ("[!" in content or ":::" in content):
            return content
        return _DIRECTIVE.sub(self._instead_of_directive, content)

    def _instead_of_directive(self, found: re.Match[str]) -> str:
        if found["code"]:
            return found["code"]
        alternative = _ALTERNATIVE_TEXT.search(found["image"] or "")
        if alternative and self.config.images == "text":
            return alternative[1] or alternative[2] or ""
        return ""

    def _inline(self, content: str) -> str:
        content = self._without_directives(content)
        if len(content) <= _MAX_PARAGRAPH_CHARACTERS and _INLINE_MARKUP.search(content):
            parser = _inline_parser()
            tokens: list[Token] = []
            parser.inline.parse(content, parser, self.environment, tokens)
            content = self._inline_text(tokens)
        content = _BREAK_BETWEEN_WIDE.sub("", content)
        content = _SOFT_BREAK.sub(" ", content)
        content = _HARD_BREAK.sub("\n", content)
        return _SPACES.sub(" ", content).strip()

    def _inline_text(self, tokens: list[Token]) -> str:
        parts: list[str] = []
        link: Token | None = None
        for token in tokens:
            if token.type == "link_open":
                link = token
            elif token.type == "link_close":
                if link is not None and self.config.links == "keep" and link.markup != "autolink":
                    parts.append(f" ({link.attrs['href']})")
                link = None
            elif link is None or self.config.links != "drop":
                parts.append(self._inline_part(token))
        return "".join(parts)

    def _inline_part(self, token: Token) -> str:
        match token.type:
            case "softbreak":
                return "\n"
            case "hardbreak":
                return "\v"
            case "image":
                keep = self.config.images == "text"
                return self._inline_text(token.children or []) if keep else ""
            case "html_inline":
                return self._inline_tag(token.content)
            case _:  # text and code; the marks of emphasis have no content
                return token.content

    def _inline_tag(self, tag: str) -> str:
        name = _TAG_NAME.match(tag)
        if name and name[1].lower() in _BLOCK_ELEMENTS:
            return "\v"
        return tag if _is_placeholder(tag) and self.config.html == "text" else ""


_BLOCK_ELEMENTS = frozenset((*block_names, "br", "pre"))
_INLINE_ELEMENTS = re.compile(
    "a|abbr|acronym|area|audio|b|bdi|bdo|big|button|canvas|cite|code|data|datalist|del|dfn|em|embed"
    "|font|g|i|img|input|ins|kbd|label|map|mark|meta|meter|nobr|object|output|path|picture|progress"
    "|q|rp|rt|ruby|s|samp|script|select|slot|small|source|span|strike|strong|style|sub|sup|svg"
    "|template|textarea|time|tt|u|use|var|video|wbr"
)
_TAG_NAME = re.compile(r"</?([A-Za-z][\w:.-]*)")
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(?P<raw>script|style|svg|template|iframe)\b.*?(?:</(?P=raw)\s*>|\Z)"
    r"|<[!?][^>]*>"
    r"""|</?[A-Za-z][^<>"']*(?:(?:"[^"]{0,1000}"|'[^']{0,1000}')[^<>"']*){0,50}>"""
    r"|</?[A-Za-z][^<>]*>",
    re.DOTALL | re.IGNORECASE,
)
_CELL_MARK = "\v"


def _is_placeholder(tag: str) -> bool:
    """Whether angle brackets hold no element of HTML but a word of the text: `<resource-group>`."""
    name = _TAG_NAME.match(tag)
    if name is None or "=" in tag:
        return False
    element = name[1].lower()
    return element not in _BLOCK_ELEMENTS and not _INLINE_ELEMENTS.fullmatch(element)


def _html_text(content: str) -> str:
    """The text of an HTML block: block elements on lines of their own, ` | ` between cells."""
    marked = html.unescape(_MARKUP.sub(_instead_of_markup, content))
    lines = (
        _SPACES.sub(" ", line.replace(_CELL_MARK, " | ")).strip(" |\t")
        for line in marked.split("\n")
    )
    return "\n".join(line for line in lines if line)


def _instead_of_markup(found: re.Match[str]) -> str:
    tag = found[0]
    name = _TAG_NAME.match(tag)
    if name is None or found["raw"]:
        return ""
    element = name[1].lower()
    if element in ("td", "th"):
        return "" if tag.startswith("</") else _CELL_MARK
    if element in _BLOCK_ELEMENTS:
        return "\n"
    return tag if _is_placeholder(tag) else ""
