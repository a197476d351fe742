"""HTML as Markdown, so that documents of all formats become text by the same rules.

Word, EPUB and reStructuredText are converted to HTML by libraries. `corpus.markdown` then says what
happens to the code, tables, links and images of all of them.
"""

import re
import warnings
from collections.abc import Iterable

from bs4 import BeautifulSoup, Tag, XMLParsedAsHTMLWarning
from markdownify import MarkdownConverter

from mlmtune.corpus.records import FileLeftOut

_MAX_DEPTH = 150  # each element takes several calls within each other, of which there are 1,000
_FEWEST_LINKS, _LINKED_SHARE = 3, 0.8
_TICKS = re.compile("`+")


class _Converter(MarkdownConverter):
    def convert_pre(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        """Fence code, whatever marks it has itself."""
        for line_end in el.find_all("br"):
            line_end.replace_with("\n")
        code = el.get_text().strip("\n")
        return f"\n\n{fenced(code)}\n\n" if code.strip() else ""

    def convert_dt(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        """Write terms and their definitions as paragraphs: CommonMark has no such lists."""
        return f"\n\n{text.strip()}\n\n"

    convert_dd = convert_dt

    def convert_span(self, el: Tag, text: str, parent_tags: set[str]) -> str:
        """Separate the type of a parameter from its name, as the styles of Sphinx do."""
        return f" {text}" if "classifier" in el.get_attribute_list("class") else text


def fenced(code: str) -> str:
    """Return a block of code as Markdown."""
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(code)), default=0))
    return f"{fence}\n{code}\n{fence}"


def parse_html(html: str | bytes) -> BeautifulSoup:
    """Parse a page as browsers do, which forgives all errors.

    Raises:
        FileLeftOut: Elements are nested too deeply.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # the chapters of an EPUB
        page = BeautifulSoup(html, "lxml")
    level: list[Tag] = [page]
    for _ in range(_MAX_DEPTH):
        level = [child for tag in level for child in tag.children if isinstance(child, Tag)]
        if not level:
            return page
    raise FileLeftOut("broken", f"over {_MAX_DEPTH} elements within each other", broken=True)


def drop(elements: Iterable[Tag]) -> int:
    """Remove elements from their page, and return how many visible characters they had."""
    num_dropped = 0
    for element in elements:
        if not element.decomposed:
            num_dropped += num_visible(element)
            element.decompose()
    return num_dropped


def drop_lists_of_links(page: Tag) -> int:
    """Remove what leads elsewhere and says nothing itself; return its number of characters."""
    return drop(filter(_is_of_links, page.select("ul, ol, dl, table, p, div")))


def _is_of_links(element: Tag) -> bool:
    links = [] if element.decomposed else element.select("a[href]")
    num_linked = sum(map(num_visible, links))
    return len(links) >= _FEWEST_LINKS and num_linked > _LINKED_SHARE * num_visible(element)


def num_visible(element: Tag) -> int:
    """Count the characters of an element's text, with single spaces."""
    return len(" ".join(element.get_text(" ").split()))


def to_markdown(element: Tag) -> str:
    """Return an element as Markdown, in which all marks that are text are escaped."""
    converter = _Converter(heading_style="ATX", bullets="-", escape_misc=True)
    markdown: str = converter.convert_soup(element)
    return markdown.strip()
