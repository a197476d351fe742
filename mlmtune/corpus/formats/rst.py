"""ReStructuredText: a file is a document."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import FileLeftOut, RawDocument, Record

_MAX_PAGE_BYTES = 2 << 20  # which takes docutils a minute or two

_DIRECTIVE = re.compile(r"^[ \t]*\.\. (?:\|[^|\n]+\| )?([A-Za-z][\w:.+-]*)::", re.MULTILINE)
_ROLE = re.compile(r":([A-Za-z][\w:.+-]*):`|`:([A-Za-z][\w:.+-]*):")
_SUBSTITUTED = re.compile(r"\|([A-Za-z](?:[\w .-]{0,60}\w)?)\|")
_DEFINED = re.compile(r"^[ \t]*\.\. \|([^|\n]+)\|", re.MULTILINE)
_TARGET = re.compile(r"(.+?)\s*<[^<>]+>\s*\Z", re.DOTALL)
_CODE = frozenset(
    ("code", "code-block", "sourcecode", "parsed-literal", "testcode", "testsetup", "testoutput",
     "doctest", "prompt", "console", "ipython", "ipython3", "math")
)  # fmt: skip
_WITHOUT_TEXT = frozenset(
    ("autoclass", "autodata", "autoexception", "autofunction", "automethod", "automodule",
     "autosummary", "contents", "currentmodule", "default-domain", "graphviz", "highlight",
     "include", "index", "literalinclude", "meta", "module", "plot", "program", "py:currentmodule",
     "py:module", "raw", "sectionauthor", "moduleauthor", "sectnum", "tabularcolumns", "toctree")
)  # fmt: skip
_SETTINGS = {
    "file_insertion_enabled": False, "raw_enabled": False, "_disable_config": True,
    "report_level": 5, "halt_level": 5, "docinfo_xform": False, "syntax_highlight": "none",
    "math_output": "LaTeX", "embed_stylesheet": False, "toc_backlinks": False,
}  # fmt: skip
_BOILERPLATE = (
    "script, style, .docinfo, .field-list:first-child, .system-message, .footnote-reference"
)


def read_rst(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Convert the page to HTML by docutils, and that to Markdown; no other file is included."""
    from docutils.core import publish_parts

    from mlmtune.corpus.html_markdown import drop, parse_html, to_markdown

    text = read_text(path, _MAX_PAGE_BYTES, decoding)
    _know_names_of(text)
    try:
        html = publish_parts(
            text + _substitutions(text), writer="html5", settings_overrides=_SETTINGS
        )["html_body"]
    except Exception as error:  # it raises whatever unexpected markup leads to
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileLeftOut("broken", f"not reStructuredText ({said})", broken=True) from error
    page = parse_html(html)
    removed = {"boilerplate": drop(page.select(_BOILERPLATE))}
    yield RawDocument(to_markdown(page), removed=removed)


def _substitutions(text: str) -> str:
    """Return definitions of the |names| that another file defines: they are shown as they are."""
    defined = {name.casefold() for name in _DEFINED.findall(text)}
    unknown = {name for name in _SUBSTITUTED.findall(text) if name.casefold() not in defined}
    lines = "".join(f".. |{name}| replace:: {name}\n" for name in sorted(unknown))
    return f"\n\n{lines}" if lines else ""


def _know_names_of(text: str) -> None:
    """Let docutils know the directives and roles of a page, most of which are those of Sphinx."""
    from docutils.parsers.rst import directives, roles

    known, any_directive, code = _directives()
    for name in {name.lower() for name in _DIRECTIVE.findall(text)}:
        if name in _CODE - {"math"}:
            directives.register_directive(name, code)
        elif name not in known or name in _WITHOUT_TEXT:
            directives.register_directive(name, any_directive)
    for name in {(before or behind).lower() for before, behind in _ROLE.findall(text)}:
        if name not in _roles():
            roles.register_local_role(name, _any_role)


@cache
def _roles() -> frozenset[str]:
    from docutils.parsers.rst import roles
    from docutils.parsers.rst.languages import en

    return frozenset(en.roles) | frozenset(roles._role_registry)


def _any_role(name: str, raw: str, text: str, *_: Any, **__: Any) -> tuple[list[Any], list[Any]]:
    """Return the words that Sphinx shows: the title of a link, or the last part of a name."""
    from docutils import nodes

    titled = _TARGET.match(text)
    shown = titled[1] if titled else text.removeprefix("!")
    if not titled and shown.startswith("~"):
        shown = shown[1:].rpartition(".")[2]
    return [nodes.inline(raw, nodes.unescape(shown))], []


@cache
def _directives() -> tuple[frozenset[str], type, type]:
    """Return the names that docutils knows, what reads any other directive, and what reads code."""
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives
    from docutils.parsers.rst.languages import en

    class AnyOption(dict[str, Callable[[str], str]]):
        """Accepts every option; an empty mapping would make them text."""

        def __bool__(self) -> bool:
            return True

        def __getitem__(self, _: str) -> Callable[[str], str]:
            return directives.unchanged  # type: ignore[no-any-return]

    class AnyDirective(Directive):  # type: ignore[misc]
        """Reads what is in a directive as if it stood without it."""

        optional_arguments, final_argument_whitespace, has_content = 1, True, True
        option_spec = AnyOption()

        def run(self) -> list[Any]:
            if self.name in _WITHOUT_TEXT:
                return []
            container = nodes.container()
            if self.arguments:
                words, _ = self.state.inline_text(self.arguments[0], self.lineno)
                container += nodes.paragraph("", "", *words)
            self.state.nested_parse(self.content, self.content_offset, container)
            return [container]

    class Code(AnyDirective):
        """Reads code, whatever its options; the argument is its language."""

        def run(self) -> list[Any]:
            code = "\n".join(self.content)
            return [nodes.literal_block(code, code)] if code else []

    return frozenset(en.directives), AnyDirective, Code


FORMAT = Format(
    read_rst,
    endings=(".rst", ".rest"),
    markup="markdown",
    needs=("docutils", "markdownify", "lxml"),
)
