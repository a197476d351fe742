"""The prose of a Markdown page.

Markdown is parsed, not searched: pulldown-cmark finds out what is prose, code, table or HTML, and
this module writes each as plain lines. What only a renderer needs (marks, link targets, comments,
directives of a docs site) is removed, because a model should not learn to predict it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pyromark import Options, events, reference_definitions

from mlmtune.config import MarkdownConfig
from mlmtune.corpus.html_text import html_text, written_for_tag

_OPTIONS = Options.ENABLE_TABLES | Options.ENABLE_FOOTNOTES | Options.ENABLE_STRIKETHROUGH

# The first line that is no comment must look like YAML, because a page may begin with a rule.
_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?=---|\.\.\.|(?:[ \t]*(?:#.*)?\n)*[\w\"'.-]+[ \t]*:)"
    r"(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
)
# Values do not go beyond a blank line, which ends a paragraph. Lines of a quote begin with ">".
_VALUE = r"""(?:"(?:[^"\n]|\n(?!\s*\n))*"|'(?:[^'\n]|\n(?!\s*\n))*')"""
_GAP = r"[ \t]*\n?[ \t]*"
# Each begins with plain characters, which is what makes the search for it fast.
_DIRECTIVES = [
    re.compile(
        rf"""
          :::                                         # more are read as one of what follows
          (?: :*[ \t]*image\b(?P<image>(?:[\s>]+[\w-]+[ \t]*=[ \t]*{_VALUE})*)[\s>]*?(?::::*|$)
            | :*[ \t]*(?P<line>(?:[A-Za-z][^\n]*)?)$  # ::: zone pivot="x", or ::: alone
          )
        """,
        re.VERBOSE | re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(
        rf"""
          \[!
          (?: [\w-]+{_GAP}\[[^][\n]*\]{_GAP}\((?P<include>[^()\n]*)\)[ \t]*\]?  # [!INCLUDE [a](b)]
            | (?:div|video)\b(?P<div>[^]\n]*)\]      # [!div class="checklist"]
            | (?P<note>\w+)\]                        # [!NOTE]
          )
        """,
        re.VERBOSE | re.IGNORECASE,
    ),
]
_BEFORE_LINE = " \t>*+-#.)0123456789"  # the marks of blocks

# What the parser must not see is parsed as a word: its number between two code points that no text
# should have. So a directive changes neither the blocks around it nor the code that it may be in.
_BEGIN, _END = "\ufdd0", "\ufdd1"
_NUMBERED = re.compile(f"{_BEGIN}([0-9]+){_END}")
_NUMBERED_WITH_SPACE = re.compile(f"(^[ \t]*)?{_BEGIN}([0-9]+){_END}([ \t]*\n?)", re.MULTILINE)
_UNPARSABLE = re.compile(f"(?P<unparsable>[{_BEGIN}{_END}\ud800-\udfff])")

_ALTERNATIVE_TEXT = re.compile(r"""\balt-text\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_TASK_BOX = re.compile(r"\A\[[ xX]\][ \t]+")
_HEADING_ID = re.compile(r"[ \t]*\{#[\w.:-]+\}\Z")
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_DASHES = re.compile(r":?-{3,}:?")

_MARKS = ("\n", "*", "_", "`", "[", "<", ">", "&", "\\", "~", "|", "- ", "+ ", ". ", ") ")
MAX_PAGE_MARKS = 4_000_000
"""The limit of a page's `_MARKS`. Most mark an element, for which the parser needs 80 bytes."""

_CODE_MARK = "[code]"
_SPANS = frozenset(("Emphasis", "Strong", "Strikethrough"))

_WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
_BREAK_BETWEEN_WIDE = re.compile(f"(?<=[{_WIDE}])[ \t]*\n[ \t]*(?=[{_WIDE}])")
# A match begins where a run of spaces does; to try each of them would take quadratic time.
_HARD_BREAK = re.compile(r"(?<![ \t])[ \t]*\v[ \t\v]*")
_BLANK_LINES = re.compile(r"\n{2,}")
_SPACES = re.compile(r"[ \t\xa0]{2,}")


class UnreadablePage(Exception):
    """A page that cannot be parsed; the message says why, and what to do."""


def markdown_text(text: str, config: MarkdownConfig, removed: Counter[str]) -> str:
    r"""Return the prose of a Markdown page, with its code and tables if the config keeps them.

    Blocks are separated by a blank line, the items of a tight list and the rows of a table by a
    line end. Headings and items become plain lines; bullets, numbers, emphasis marks, front matter
    and comments are removed.

    Args:
        text: The page, with `\n` for its line ends.
        config: What becomes of the parts that are not prose.
        removed: Counts the characters that are removed by each of `cleaning.STEPS`. No event has
            the marks, so `markup` is what no other step accounts for.

    Raises:
        UnreadablePage: The page has more than `MAX_PAGE_MARKS` line ends and marks, so that its
            elements do not fit into memory; or the parser fails.
    """
    if len(text) > MAX_PAGE_MARKS and sum(map(text.count, _MARKS)) > MAX_PAGE_MARKS:
        fault = f"a page of Markdown with over {MAX_PAGE_MARKS:,} lines and marks"
        raise UnreadablePage(f"{fault}; cut it, or set markup: none")
    source = text.lstrip("\n")
    front_matter = _FRONT_MATTER.match(source)
    if front_matter:
        source = source[front_matter.end() :]
    by_step = Counter(front_matter=front_matter.end() if front_matter else 0)
    try:
        written = _Page(config, by_step).write(source)
    except BaseException as error:
        # The panic of a library in Rust is no Exception, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        fault = f"the parser of Markdown fails ({' '.join(str(error).split())})"
        raise UnreadablePage(f"{fault}; exclude the page, or set markup: none") from error
    by_step["markup"] = len(text) - len(written) - by_step.total()
    removed.update(by_step)
    return written


class _Page:
    """A writer of one page as text; see `markdown_text`."""

    def __init__(self, config: MarkdownConfig, removed: Counter[str]) -> None:
        self.config = config
        self.removed = removed
        self.replaced: list[tuple[str | None, str]] = []  # kind and text of what has a number
        self.inline: list[str] = []  # the text of the block that is being read
        self.opened: list[tuple[int, dict[str, str]]] = []  # links and images, by where they begin
        self.is_heading = self.is_fence = False
        self.parts: list[str] = []
        self.previous_is_tight = False
        self.removed_before_table = removed
        self.cells: list[str] = []
        self.rows: list[str] = []

    def write(self, source: str) -> str:
        if not _is_parsable(source):
            source = _UNPARSABLE.sub(self._number, source)
        for directive in _DIRECTIVES if self.config.directives == "drop" else ():
            source = directive.sub(self._number, source)
        if "]:" in source:
            self._count_definitions(source)
        self._write_blocks(source)
        return "".join(self.parts).strip()

    def _count_definitions(self, source: str) -> None:
        definitions = reference_definitions(source, options=_OPTIONS)
        encoded = source.encode() if definitions else b""
        for definition in definitions.values():
            span = definition["span"]
            lines = encoded[span["start"] : span["end"]].decode().strip("\n")
            self.removed["links"] += len(f"{lines}\n")

    def _write_blocks(self, source: str) -> None:
        """Write each block of a page; a page has an event for every 25 characters."""
        inline, ends = self.inline, self._ends()
        parsed: Iterator[Any] = events(source, options=_OPTIONS)
        for event in parsed:
            if type(event) is str:
                if event != "Rule":
                    inline.append("\n" if event == "SoftBreak" else "\v")
                elif inline:
                    self._end_item()
                continue
            kind, value = event.popitem()  # the only one
            if kind == "Text" or kind == "Html":
                inline.append(value)
            elif kind == "Start":
                if type(value) is not str:
                    self._begin(*value.popitem())
                elif inline and value not in _SPANS:
                    self._end_item()
            elif kind == "End":
                if type(value) is not str:
                    self._end(*value.popitem())
                elif value in ends:
                    ends[value]()
                elif inline and value not in _SPANS:
                    self._end_item()
            elif kind == "Code":
                inline.append(self._as_code(value) if _BEGIN in value else value)
            elif kind == "InlineHtml":
                inline.append(self._inline_tag(value))
            # What is left are the marks of footnotes.

    def _ends(self) -> dict[str, Callable[[], None]]:
        """Return what is done at the end of each element that has a part in the text."""
        return {
            "Paragraph": lambda: self._write(self._paragraph(self._taken())),
            "Link": lambda: self._end_link(*self.opened.pop()),
            "Image": lambda: self._end_image(*self.opened.pop()),
            "TableCell": lambda: self.cells.append(self._cell(self._taken())),
            "TableHead": self._end_row,
            "TableRow": self._end_row,
            "Table": self._end_table,
            "CodeBlock": lambda: self._write(self._code(self._taken())),
            "HtmlBlock": lambda: self._write(self._html(self._taken())),
        }

    def _begin(self, tag: str, value: Any) -> None:
        """Begin an element that has attributes."""
        if tag == "Link" or tag == "Image":
            self.opened.append((len(self.inline), value))
            return
        if tag == "Table":
            self.removed_before_table = self.removed.copy()
        self.is_heading = tag == "Heading"
        self.is_fence = tag == "CodeBlock" and value != "Indented"
        if self.inline:
            self._end_item()

    def _end(self, tag: str, _: Any) -> None:
        """End an element that has attributes."""
        if tag == "Heading":
            self.is_heading = False
            self._write(self._heading(self._taken()))
        elif self.inline:
            self._end_item()

    def _end_item(self) -> None:
        """Write a paragraph of a tight list.

        It has no events of its own: it ends where another block or the item does.
        """
        self._write(self._paragraph(self._taken()), is_tight=True)

    def _end_row(self) -> None:
        self.rows.append(_row(self.cells))
        self.cells = []

    def _end_table(self) -> None:
        rows, self.rows = self.rows, []
        if self.config.tables == "drop":  # with all that its cells had
            num_removed = self.removed.total() - self.removed_before_table.total()
            self.removed.clear()
            self.removed.update(self.removed_before_table)
            self.removed["tables"] += num_removed
        self._write("\n".join(row for row in rows if row))

    def _write(self, block: str, *, is_tight: bool = False) -> None:
        if block and not block.isspace():
            if self.parts:
                self.parts.append("\n" if is_tight and self.previous_is_tight else "\n\n")
            self.parts.append(block.strip("\n"))
            self.previous_is_tight = is_tight

    def _taken(self) -> str:
        content = "".join(self.inline)
        self.inline.clear()
        return content

    def _paragraph(self, content: str) -> str:
        lines = content.split("\n") if "|" in content else []
        for number, line in enumerate(lines):
            # The parser requires as many cells here as in the header; docs sites do not.
            if number > 0 and "|" in line and "-" in line and not line.strip(" \t|:-"):
                before = self._line("\n".join(lines[: number - 1]))
                rows = [lines[number - 1], *lines[number + 1 :]]
                written = [before, *(_row(self._cells(row)) for row in rows)]
                return "\n".join(line for line in written if line)
        line = self._line(content)
        return _TASK_BOX.sub("", line) if line.startswith("[") else line

    def _cells(self, row: str) -> list[str]:
        cells = _CELL_BORDER.split(row.strip())
        return [self._cell(cell.strip().replace("\\|", "|")) for cell in cells]

    def _cell(self, content: str) -> str:
        if self.config.tables == "drop":
            self.removed["tables"] += len(content)
            return ""
        return self._line(content).replace("\n", " ")

    def _code(self, content: str) -> str:
        # On docs sites, a directive may be indented so far that it parses as code.
        keeps = self._restored if self.is_fence else self._without_directives
        code = keeps(content).rstrip()
        if self.config.code_blocks == "keep" or not code:
            return code
        written = _CODE_MARK if self.config.code_blocks == "replace" else ""
        self.removed["code_blocks"] += len(code) - len(written)
        return written

    def _html(self, content: str) -> str:
        shown = html_text(self._restored(content), self.removed)
        keep = self.config.html == "text"
        written = _BLANK_LINES.sub("\n", shown).strip("\n") if keep else ""
        self.removed["html"] += len(shown) - len(written)
        return written

    def _heading(self, content: str) -> str:
        heading = self._line(content)
        if self.config.directives == "keep" or not heading.endswith("}"):
            return heading
        plain = _HEADING_ID.sub("", heading)
        self.removed["directives"] += len(heading) - len(plain)
        return plain

    def _line(self, content: str) -> str:
        """Return a paragraph, a heading or a cell as one line, except for hard breaks."""
        if content.isprintable() and "  " not in content:
            return content.strip()  # at once, because most have nothing of what follows
        content = self._without_directives(content)
        if "\n" in content:
            if not content.isascii():
                content = _BREAK_BETWEEN_WIDE.sub("", content)
            content = " ".join([line.strip(" \t") for line in content.split("\n")])
        if "\v" in content:
            content = _HARD_BREAK.sub("\n", content)
        if "  " in content or "\t" in content or "\xa0" in content:
            content = _SPACES.sub(" ", content)
        return content.strip()

    def _number(self, match: re.Match[str]) -> str:
        if match.lastgroup == "line":
            begin = match.string.rfind("\n", 0, match.start()) + 1
            if match.string[begin : match.start()].strip(_BEFORE_LINE):
                return match[0]
        return self._numbered(match.lastgroup, self._restored(match[0]))

    def _numbered(self, kind: str | None, text: str) -> str:
        self.replaced.append((kind, text))
        return f"{_BEGIN}{len(self.replaced) - 1}{_END}"

    def _as_code(self, content: str) -> str:
        """Return code within a line, in which a directive is no directive."""
        return _NUMBERED.sub(
            lambda match: self._numbered("code", self.replaced[int(match[1])][1]), content
        )

    def _restored(self, content: str) -> str:
        """Return the content with all that has a number as it was."""
        if _BEGIN not in content:
            return content
        return _NUMBERED.sub(lambda match: self.replaced[int(match[1])][1], content)

    def _without_directives(self, content: str) -> str:
        if _BEGIN not in content:
            return content
        return _NUMBERED_WITH_SPACE.sub(self._instead_of_directive, content)

    def _instead_of_directive(self, numbered: re.Match[str]) -> str:
        kind, directive = self.replaced[int(numbered[2])]
        before, after = numbered[1] or "", numbered[3]
        written = ""
        if kind in ("code", "unparsable") or (kind in ("line", "note") and numbered[1] is None):
            written = directive  # the latter are directives only where a line begins
        elif kind in ("line", "note"):
            self.removed["directives"] += len(before) + len(directive) + len(after)
            return ""
        elif kind == "image":
            if self.config.images == "text" and (text := _ALTERNATIVE_TEXT.search(directive)):
                written = text[1] or text[2] or ""
            self.removed["images"] += len(directive) - len(written)
        else:
            self.removed["directives"] += len(directive)
        return before + written + after

    def _end_link(self, begin: int, link: dict[str, str]) -> None:
        target = link["dest_url"]
        if self.is_heading and target.startswith("#tab/") and self.config.directives == "drop":
            self.removed["directives"] += len("[]()") + len(target)
            return
        if self.config.links == "drop":
            self._drop(begin, "links")
        if link["link_type"] not in ("Autolink", "Email"):
            written = f" ({target})" if self.config.links == "keep" else ""
            self.inline.append(written)
            self.removed["links"] += _num_target_characters(link) - len(written)

    def _end_image(self, begin: int, image: dict[str, str]) -> None:
        self.removed["images"] += len("!") + _num_target_characters(image)
        if self.config.images == "drop":
            self._drop(begin, "images")

    def _drop(self, begin: int, step: str) -> None:
        self.removed[step] += sum(map(len, self.inline[begin:]))
        del self.inline[begin:]

    def _inline_tag(self, tag: str) -> str:
        written = written_for_tag(tag, "\v")
        if written == tag and self.config.html != "text":
            written = ""
        step = "comments" if tag.startswith("<!--") else "html"
        self.removed[step] += len(tag) - len(written)
        return written


def _is_parsable(source: str) -> bool:
    try:
        source.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return _BEGIN not in source and _END not in source


def _num_target_characters(link: dict[str, str]) -> int:
    """Count the characters that the target of a link or an image takes in the source."""
    brackets = len("[]()")
    if link["link_type"] != "Inline":
        return brackets
    title = link["title"]
    return brackets + len(link["dest_url"]) + (len(f' "{title}"') if title else 0)


def _row(cells: list[str]) -> str:
    """Join the cells from the first that is not empty to the last."""
    joined = " | ".join(cells)
    if "---" not in joined and cells and cells[0] and cells[-1]:
        return joined
    without_dashes = [cell for cell in cells if not _DASHES.fullmatch(cell)]
    if 2 * len(without_dashes) < len(cells):  # a line across the table, maybe with words in it
        cells = without_dashes
    filled = [number for number, cell in enumerate(cells) if cell]
    return " | ".join(cells[filled[0] : filled[-1] + 1]) if filled else ""
