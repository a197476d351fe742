"""Word documents: a file is a document."""

from collections.abc import Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.archives import not_valid, open_archive
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import RawDocument, Record

_KIND = "a Word document (.docx)"
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name^='TOC'] => p.contents:fresh
p[style-name^='toc'] => p.contents:fresh
p[style-name^='Code'] => pre:separator('\\n')
p[style-name^='HTML Preformatted'] => pre:separator('\\n')
p[style-name^='Source Code'] => pre:separator('\\n')
"""
# The entries of its table of contents, and the marks of notes, whose text is at the end.
_BOILERPLATE = "p.contents, sup:has(a[href^='#footnote'], a[href^='#endnote']), a[href*='note-ref']"


def read_docx(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Convert the document to HTML by its styles, and that to Markdown, without its contents."""
    import mammoth

    from mlmtune.corpus.html_markdown import drop, parse_html, to_markdown

    with open_archive(path, _KIND) as archive:
        try:
            html = mammoth.convert_to_html(
                archive.fp, style_map=_STYLES, convert_image=lambda _: []
            ).value
        except Exception as error:  # it raises whatever an unexpected element leads to
            raise not_valid(_KIND, error) from error
    page = parse_html(html)
    removed = {"boilerplate": drop(page.select(_BOILERPLATE))}
    yield RawDocument(to_markdown(page), removed=removed)


FORMAT = Format(
    read_docx,
    endings=(".docx", ".docm"),
    is_compressed_within=True,
    markup="markdown",
    needs=("mammoth", "markdownify", "lxml"),
)
