"""Web pages: a file is a document."""

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import FileLeftOut, RawDocument, Record

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

_MAX_PAGE_BYTES = 8 << 20  # the tree of a page takes 20 times its size

_UNSEEN = "script, style, template, noscript, iframe, svg, head, [hidden]"
_BOILERPLATE = (
    "nav, aside, footer, form, button, dialog, [aria-hidden=true], [role=navigation],"
    "[role=banner], [role=contentinfo], [role=search], [role=complementary], [role=dialog]"
)
# What sites and generators of documentation call such elements, by class or id.
_NAMES = re.compile(
    r"(?:site|page|main|top|bottom|global|local|doc|docs|mobile|left|right)?[-_]?"
    r"(?:nav|navbar|navigation|navheader|navfooter|menu|sidebar|sphinxsidebar|toolbar|breadcrumbs?"
    r"|toc|table-of-contents|contents|related|pagination|pager|prevnext|footer|masthead|copyright"
    r"|skip|skip-link|skiplink|headerlink|viewcode-link|anchorjs-link|linenos|linenodiv|lineno|share|social|ads?"
    r"|advert|advertisement|promo|newsletter|subscribe|searchbox|edit-?this-?page|nosearch)"
    r"|(?:cookie|consent|gdpr|sphinxsidebar)\w*(?:-\w+)*",
    re.IGNORECASE,
)
_CHARSET = re.compile(r"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]+)", re.IGNORECASE)

_BEFORE_SITE = re.compile(r"\s[|\u2013\u2014\u00b7\u00bb-]\s|\s?::\s")
_TITLE_WITHIN = 500
"""A title that is not among as many characters of a page is written above it."""
_MOST_ABOVE_TITLE = 200
_ANCHORS = ("#", "\u00b6", "\u00a7", "\U0001f517")


def read_html(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Convert the text of a page to Markdown, without what its site puts around it."""
    from mlmtune.corpus.html_markdown import drop, parse_html, to_markdown

    page = parse_html(_decoded(path, decoding))
    title = _BEFORE_SITE.split(" ".join(page.title.get_text().split()))[0] if page.title else ""
    drop(page.select(_UNSEEN))
    body = page.body or page
    removed = {}
    if source.boilerplate == "drop":
        removed = {"boilerplate": _drop_boilerplate(body) + _drop_before_title(body, title)}
    text = to_markdown(body)
    beginning = " ".join(body.get_text(" ").split())[:_TITLE_WITHIN]
    if text and title.casefold() not in beginning.casefold():
        text = f"{title}\n\n{text}"
    yield RawDocument(text, removed=removed)


def _decoded(path: str, decoding: Decoding) -> str:
    """Return the text of a file, which may itself name its encoding if that is not Unicode."""
    text = read_text(path, _MAX_PAGE_BYTES, decoding)
    declared = _CHARSET.search(text[:2048])
    if decoding.used is None or not decoding.used.is_guess or declared is None:
        return text
    try:
        name = codecs.lookup(declared[1]).name
        # As all browsers do (WHATWG Encoding, 4.2).
        again = Decoding("cp1252" if name in ("iso8859-1", "ascii") else name)
        text = read_text(path, _MAX_PAGE_BYTES, again)
    except (LookupError, FileLeftOut):
        return text
    decoding.used = again.used
    return text


def _drop_boilerplate(body: "BeautifulSoup | Tag") -> int:
    """Remove what the page shares with others of its site; return how many characters it had."""
    from mlmtune.corpus.html_markdown import drop, drop_lists_of_links, num_visible

    before = num_visible(body)
    drop(link for link in body.select("a[href^='#']") if link.get_text().strip() in _ANCHORS)
    mains = body.select("main, [role=main]") or body.select("article")
    if len(mains) == 1 and 2 * num_visible(mains[0]) > before:
        main = mains[0].extract()
        body.clear()
        body.append(main)
    named = (element for element in body.find_all(True) if _is_named(element))
    for element in [*body.select(_BOILERPLATE), *named]:
        # Some pages are a form, or are within an element of a misleading name, as a whole.
        if not element.decomposed and 2 * num_visible(element) < before:
            element.decompose()
    drop(body.select("header:not(main header, article header, :has(h1))"))
    drop_lists_of_links(body)
    return before - num_visible(body)


def _drop_before_title(body: "BeautifulSoup | Tag", title: str) -> int:
    """Remove a little text above the heading that is the title: the name of the site."""
    for heading in body.find_all(["h1", "h2", "h3"]):
        if " ".join(heading.get_text().split()) == title:
            above = heading.find_all_previous(string=True)
            num_above = len(" ".join(" ".join(above).split()))
            if num_above <= _MOST_ABOVE_TITLE:
                for text in above:
                    text.extract()
                return num_above
            break
    return 0


def _is_named(element: "Tag") -> bool:
    names = [*element.get_attribute_list("class"), element.get("id")]
    return any(isinstance(name, str) and _NAMES.fullmatch(name) for name in names)


FORMAT = Format(
    read_html,
    endings=(".html", ".htm", ".xhtml"),
    markup="markdown",
    needs=("markdownify", "lxml"),
)
