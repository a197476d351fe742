"""The prose of a Markdown page.

Markdown is parsed, not searched: markdown-it finds out what is prose, code, table or HTML, and this
module writes each as plain lines. What only a renderer needs (marks, link targets, comments,
directives of a docs site) is removed, because a model should not learn to predict it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType

from mlmtune.config import MarkdownConfig
from mlmtune.corpus.html_text import html_text, written_for_tag

# Each level takes a few frames of Python's stack. The parser drops blocks that are deeper, and
# takes deeper inline marks for text; its time for a row of open brackets grows with the limit.
_MAX_BLOCK_NESTING = 100
_MAX_INLINE_NESTING = 20

# The first line that is no comment must look like YAML, because a page may begin with a rule.
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
_TAB_HEADING = re.compile(r"\[(.+)\]\(#tab/[^()\s]*\)")
_TASK_BOX = re.compile(r"\A\[[ xX]\][ \t]+")
_HEADING_ID = re.compile(r"\{#[\w.:-]+\}\Z")
_FOOTNOTE = re.compile(r"^[ >]*\[\^([^]\s]+)\]:", re.MULTILINE)
_FOOTNOTE_MARK = re.compile(r"\[\^([^]\s]+)\]:?")
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_DASHES = re.compile(r":?-{3,}:?")

MAX_PAGE_BLOCKS = 1_000_000
"""The limit of a page's lines, and of its tokens; each takes up to half a kilobyte of memory."""

_CODE_MARK = "[code]"

# Prose has no paragraphs as long; parsed, one would take hundreds of times its size in memory.
_MAX_PARAGRAPH_CHARACTERS = 1 << 18

# Inline text without any of these has no markup, and need not be parsed.
_INLINE_MARKUP = re.compile(r"[\\`*_~\[<&]|  \n")
_WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
_BREAK_BETWEEN_WIDE = re.compile(f"(?<=[{_WIDE}])[ \t]*\n[ \t]*(?=[{_WIDE}])")
# A match begins where a run of spaces does; to try each of them would take quadratic time.
_HARD_BREAK = re.compile(r"(?<![ \t])[ \t]*\v[ \t\v]*")
_BLANK_LINES = re.compile(r"\n{2,}")
_SPACES = re.compile(r"[ \t\xa0]{2,}")


class PageTooLarge(Exception):
    """A page whose blocks do not fit into memory."""


class _Blocks(list[Token]):
    """The tokens of a page, whose number is limited."""

    def append(self, token: Token) -> None:
        if len(self) >= MAX_PAGE_BLOCKS:
            raise PageTooLarge(f"a page of Markdown with over {MAX_PAGE_BLOCKS:,} blocks")
        super().append(token)


class _Parser(MarkdownIt):
    """markdown-it without its protection of browsers, because here a link target is only text."""

    def validateLink(self, url: str) -> bool:
        return True

    def normalizeLink(self, url: str) -> str:
        return url


def _definition(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Parse a link's definition, but not a footnote, which looks like one if it is one word."""
    start = state.bMarks[start_line] + state.tShift[start_line]
    return not state.src.startswith("[^", start) and reference(state, start_line, end_line, silent)


@cache
def _block_parser() -> MarkdownIt:
    """Return a parser that leaves inline text alone, because most of it has no markup."""
    parser = _Parser("commonmark", {"maxNesting": _MAX_BLOCK_NESTING}).enable("table")
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.block.ruler.at("reference", _definition)
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    return _Parser("commonmark", {"maxNesting": _MAX_INLINE_NESTING}).enable("strikethrough")


def markdown_text(text: str, config: MarkdownConfig, removed: Counter[str]) -> str:
    r"""Return the prose of a Markdown page, with its code and tables if the config keeps them.

    Blocks are separated by a blank line, the items of a tight list and the rows of a table by a
    line end. Headings and items become plain lines; bullets, numbers, emphasis marks, front matter
    and comments are removed. A page nested over a hundred levels deep is returned as it is.

    Args:
        text: the page, with `\n` for its line ends.
        config: what becomes of the parts that are not prose.
        removed: counts the characters that are removed by each of `cleaning.STEPS`. No token has
            the marks, so `markup` is what no other step accounts for.

    Raises:
        PageTooLarge: the page has more than `MAX_PAGE_BLOCKS` lines or tokens.
    """
    source = text.lstrip("\n")
    front_matter = _FRONT_MATTER.match(source)
    start = front_matter.end() if front_matter else 0
    source, by_step = source[start:], Counter(front_matter=start)
    environment: EnvType = {}
    tokens = _blocks(source, environment)
    if any(token.level >= _MAX_BLOCK_NESTING - 1 for token in tokens):
        written = source.strip()
    else:
        written = _Page(source, config, environment, by_step).write(tokens)
    by_step["markup"] = len(text) - len(written) - by_step.total()
    removed.update(by_step)
    return written


def _blocks(source: str, environment: EnvType) -> list[Token]:
    if source.count("\n") > MAX_PAGE_BLOCKS:
        raise PageTooLarge(f"a page of Markdown of over {MAX_PAGE_BLOCKS:,} lines")
    parser = _block_parser()
    state = StateCore(source, parser, environment)
    state.tokens = _Blocks()
    parser.core.process(state)
    return state.tokens


class _Page:
    """A writer of the tokens of one page as text; see `markdown_text`."""

    def __init__(
        self, source: str, config: MarkdownConfig, environment: EnvType, removed: Counter[str]
    ) -> None:
        self.config = config
        self.environment = environment  # the reference definitions that the block parser found
        self.removed = removed
        self.footnotes = set(_FOOTNOTE.findall(source)) if "[^" in source else set()
        definitions = environment.get("references", {}).values()
        self.defined_targets = {definition["href"] for definition in definitions}
        if definitions:
            lines = source.split("\n")
            for definition in definitions:
                start, end = definition["map"]
                self.removed["links"] += sum(len(line) + 1 for line in lines[start:end])

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
        """Yield the text of each block, and whether it is a paragraph of a tight list."""
        rows: list[str] = []
        cells: list[str] = []
        opening = Token("paragraph_open", "p", 1)
        for token in tokens:
            match token.type:
                case "heading_open" | "paragraph_open" | "th_open" | "td_open":
                    opening = token
                case "inline":
                    if opening.tag in ("th", "td"):
                        cells.append(self._cell(token.content))
                    elif opening.type == "heading_open":
                        yield self._heading(token.content), False
                    else:
                        yield self._paragraph(token.content), opening.hidden
                case "fence":
                    yield self._code(token.content), False
                case "code_block":
                    # On docs sites, a directive may be indented so far that it parses as code.
                    yield self._code(self._without_directives(token.content)), False
                case "html_block":
                    yield self._html(token.content), False
                case "tr_close":
                    rows.append(_row(cells))
                    cells = []
                case "table_close":
                    yield "\n".join(row for row in rows if row), False
                    rows = []

    def _paragraph(self, content: str) -> str:
        lines = content.split("\n") if "|" in content else []
        for number, line in enumerate(lines):
            # The parser requires as many cells here as in the header; docs sites do not.
            if number > 0 and "|" in line and "-" in line and not line.strip(" \t|:-"):
                before = self._inline("\n".join(lines[: number - 1]))
                rows = [lines[number - 1], *lines[number + 1 :]]
                written = [before, *(_row(self._cells(row)) for row in rows)]
                return "\n".join(line for line in written if line)
        return _TASK_BOX.sub("", self._inline(content))

    def _cells(self, row: str) -> list[str]:
        cells = _CELL_BORDER.split(row.strip())
        return [self._cell(cell.strip().replace("\\|", "|")) for cell in cells]

    def _cell(self, content: str) -> str:
        if self.config.tables == "drop":
            self.removed["tables"] += len(content)
            return ""
        return self._inline(content).replace("\n", " ")

    def _code(self, content: str) -> str:
        code = content.rstrip()
        if self.config.code_blocks == "keep" or not code:
            return code
        written = _CODE_MARK if self.config.code_blocks == "replace" else ""
        self.removed["code_blocks"] += len(code) - len(written)
        return written

    def _html(self, content: str) -> str:
        shown = html_text(content, self.removed)
        keep = self.config.html == "text"
        written = _BLANK_LINES.sub("\n", shown).strip("\n") if keep else ""
        self.removed["html"] += len(shown) - len(written)
        return written

    def _heading(self, content: str) -> str:
        if self.config.directives == "drop":
            tab = _TAB_HEADING.fullmatch(content)
            plain = _HEADING_ID.sub("", tab[1] if tab else content)
            self.removed["directives"] += len(content) - len(plain)
            content = plain
        return self._inline(content)

    def _without_directives(self, content: str) -> str:
        if self.config.directives == "keep" or not ("[!" in content or ":::" in content):
            return content
        return _DIRECTIVE.sub(self._instead_of_directive, content)

    def _instead_of_directive(self, match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        if match["image"] is None:
            self.removed["directives"] += len(match[0])
            return ""
        written = ""
        if self.config.images == "text" and (text := _ALTERNATIVE_TEXT.search(match["image"])):
            written = text[1] or text[2] or ""
        self.removed["images"] += len(match[0]) - len(written)
        return written

    def _inline(self, content: str) -> str:
        content = self._without_directives(content)
        if len(content) <= _MAX_PARAGRAPH_CHARACTERS and _INLINE_MARKUP.search(content):
            parser = _inline_parser()
            tokens: list[Token] = []
            parser.inline.parse(content, parser, self.environment, tokens)
            content = self._inline_text(tokens)
        if "\n" in content:
            content = _BREAK_BETWEEN_WIDE.sub("", content)
            content = " ".join([line.strip(" \t") for line in content.split("\n")])
        if "\v" in content:
            content = _HARD_BREAK.sub("\n", content)
        return _SPACES.sub(" ", content).strip()

    def _inline_text(self, tokens: list[Token]) -> str:
        parts: list[str] = []
        link: Token | None = None
        for token in tokens:
            if token.type == "link_open":
                link = token
            elif token.type == "link_close":
                if link is not None and link.markup != "autolink":
                    parts.append(self._link_target(link))
                link = None
            else:
                part = self._inline_part(token)
                if link is not None and self.config.links == "drop":
                    self.removed["links"] += len(part)
                else:
                    parts.append(part)
        return "".join(parts)

    def _link_target(self, link: Token) -> str:
        target = f" ({link.attrs['href']})" if self.config.links == "keep" else ""
        self.removed["links"] += self._num_target_characters(link, "href") - len(target)
        return target

    def _num_target_characters(self, token: Token, attribute: str) -> int:
        """Count the characters that the target of a link or an image takes in the source."""
        target = str(token.attrs[attribute])
        brackets = len("[]()")
        if target in self.defined_targets:
            return brackets
        title = token.attrs.get("title")
        return brackets + len(target) + (len(f' "{title}"') if title else 0)

    def _inline_part(self, token: Token) -> str:
        match token.type:
            case "softbreak":
                return "\n"
            case "hardbreak":
                return "\v"
            case "image":
                return self._image(token)
            case "html_inline":
                return self._inline_tag(token.content)
            case "text" if self.footnotes:
                return _FOOTNOTE_MARK.sub(
                    lambda match: "" if match[1] in self.footnotes else match[0], token.content
                )
            case _:  # text and code; the marks of emphasis have no content
                return token.content

    def _image(self, image: Token) -> str:
        self.removed["images"] += len("!") + self._num_target_characters(image, "src")
        if self.config.images == "text":
            return self._inline_text(image.children or [])
        self.removed["images"] += len(image.content)
        return ""

    def _inline_tag(self, tag: str) -> str:
        written = written_for_tag(tag, "\v")
        if written == tag and self.config.html != "text":
            written = ""
        step = "comments" if tag.startswith("<!--") else "html"
        self.removed[step] += len(tag) - len(written)
        return written


def _row(cells: list[str]) -> str:
    """Join the cells from the first that is not empty to the last."""
    without_dashes = [cell for cell in cells if not _DASHES.fullmatch(cell)]
    if 2 * len(without_dashes) < len(cells):  # a line across the table, maybe with words in it
        cells = without_dashes
    filled = [number for number, cell in enumerate(cells) if cell]
    return " | ".join(cells[filled[0] : filled[-1] + 1]) if filled else ""
