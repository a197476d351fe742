"""Slides of PowerPoint: a file is a document."""

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from mlmtune.config import SourceConfig
from mlmtune.corpus.archives import not_valid, open_archive
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import RawDocument, Record

_KIND = "a presentation (.pptx)"
_REPEATED = ("SLIDE_NUMBER", "FOOTER", "DATE", "HEADER")


def read_pptx(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Write each slide below its title: its text, tables and notes, in their order."""
    from pptx import Presentation

    from mlmtune.corpus.html_markdown import parse_html, to_markdown

    with open_archive(path, _KIND) as archive:
        try:
            slides = Presentation(archive.fp).slides
            html = "".join(part for slide in slides for part in _slide(slide))
        except Exception as error:  # it raises whatever an unexpected element leads to
            raise not_valid(_KIND, error) from error
    yield RawDocument(to_markdown(parse_html(html)))


def _slide(slide: Any) -> Iterator[str]:
    title = slide.shapes.title
    if title is not None and title.text_frame.text.strip():
        yield f"<h2>{escape(' '.join(title.text_frame.text.split()))}</h2>"
    shapes = [shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id]
    yield from _shapes(shapes)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        yield _paragraphs(slide.notes_slide.notes_text_frame)


def _shapes(shapes: Iterable[Any]) -> Iterator[str]:
    """Yield the text of shapes as HTML, in the order in which they are drawn."""
    for shape in shapes:
        if shape.is_placeholder and shape.placeholder_format.type.name in _REPEATED:
            continue
        if hasattr(shape, "shapes"):  # a group
            yield from _shapes(shape.shapes)
        elif getattr(shape, "has_table", False):
            yield _table(shape.table)
        elif shape.has_text_frame:
            yield _paragraphs(shape.text_frame)


def _paragraphs(frame: Any) -> str:
    # A line break within a paragraph is a vertical tab.
    texts = (escape(paragraph.text).replace("\v", "<br>") for paragraph in frame.paragraphs)
    items = "".join(f"<li>{text}</li>" for text in texts if text.strip())
    return f"<ul>{items}</ul>"


def _table(table: Any) -> str:
    rows = ("".join(f"<td>{escape(cell.text)}</td>" for cell in row.cells) for row in table.rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


FORMAT = Format(
    read_pptx,
    endings=(".pptx", ".pptm"),
    is_compressed_within=True,
    markup="markdown",
    needs=("pptx", "markdownify", "lxml"),
)
