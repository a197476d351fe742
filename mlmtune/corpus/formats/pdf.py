"""PDF: a file is a document."""

import re
from collections.abc import Iterator
from ctypes import c_double, c_int, create_string_buffer
from typing import TYPE_CHECKING

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import MAX_DOCUMENT_BYTES, read_binary
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.pdf_layout import HYPHEN, Line, paragraphs
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, RawDocument, Record
from mlmtune.printable import counted

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfTextPage

# Each of its lines is held with its box, which takes five times the text.
_MAX_CHARACTERS = MAX_DOCUMENT_BYTES >> 2

_CODE_FONT = re.compile(rb"mono|courier|consol|typewriter|cmtt", re.IGNORECASE)


def read_pdf(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Yield the text of all pages as one document, and a `BrokenRecord` for each broken page."""
    from pypdfium2 import PdfDocument, PdfiumError, raw

    content = read_binary(path)
    try:
        document = PdfDocument(content)
    except PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            detail = "it needs a password; save it without one (qpdf --decrypt)"
            raise FileLeftOut("encrypted", detail) from error
        detail = f"not a valid PDF ({error}); fetch it again"
        raise FileLeftOut("damaged", detail, broken=True) from error
    try:
        yield from _document(document, keeps_boilerplate=source.boilerplate == "keep")
    finally:
        document.close()


def _document(document: "PdfDocument", *, keeps_boilerplate: bool) -> Iterator[Record]:
    from pypdfium2 import PdfiumError

    pages: list[list[Line]] = []
    num_characters = num_broken = 0
    for number in range(len(document)):
        try:
            page = document[number]
            text_page = page.get_textpage()
        except PdfiumError as error:
            num_broken += 1
            yield BrokenRecord(f" (page {number + 1})", f"damaged: {error}; fetch the file again")
            continue
        lines = list(_lines(text_page))
        text_page.close()
        page.close()
        pages.append(lines)
        num_characters += sum(len(line.text) for line in lines)
        if num_characters > _MAX_CHARACTERS:
            limit = f"over {_MAX_CHARACTERS >> 20} million characters"
            raise FileLeftOut("too_large", f"{limit} are too much for one document; cut it")
    if num_characters:
        text, num_removed = paragraphs(pages, keeps_boilerplate=keeps_boilerplate)
        yield RawDocument(text, removed={"boilerplate": num_removed})
    elif not num_broken:
        pages_read = counted(len(document), "page")
        detail = f"{pages_read} without text, probably scanned; recognise it first (ocrmypdf)"
        raise FileLeftOut("no_text", detail)


def _lines(page: "PdfTextPage") -> Iterator[Line]:
    """Yield the lines of a page, in the order in which they are written into it."""
    from pypdfium2 import raw

    num_characters = page.count_chars()
    text = page.get_text_range()
    if len(text) != num_characters:  # beyond the BMP; only this gives a character per position
        codes = (raw.FPDFText_GetUnicode(page, index) for index in range(num_characters))
        text = "".join(chr(code) if code else " " for code in codes)
    text = text.replace("\ufffe", HYPHEN)  # as the text of a whole page has it
    start = 0
    for end, character in enumerate(text + "\n"):
        if character in "\r\n" or (end and text[end - 1] == HYPHEN):
            line = text[start:end]
            if visible := line.strip():
                first = start + len(line) - len(line.lstrip())
                yield _line(page, visible, first)
            start = end + (character in "\r\n")


def _line(page: "PdfTextPage", text: str, first: int) -> Line:
    """Return a line that begins at a position of its page, with its box."""
    from pypdfium2 import raw

    end = first + len(text.removesuffix(HYPHEN))
    word_end = min(end, first + len(text.split(maxsplit=1)[0]))
    boxes = [
        page.get_charbox(index, loose=True)  # of the font, not of the letter
        for index in (first, max(first, word_end - 1), (first + end) // 2, max(first, end - 1))
    ]
    x, y = c_double(), c_double()
    raw.FPDFText_GetCharOrigin(page, first, x, y)
    left, height = boxes[0][0], max(top - bottom for _, bottom, _, top in boxes)
    is_code = all(_is_fixed_pitch(page, index) for index in (first, max(first, end - 1)))
    return Line(text, left, boxes[-1][2], y.value, height, boxes[1][2] - left, is_code)


def _is_fixed_pitch(page: "PdfTextPage", index: int) -> bool:
    """Whether a character is of a font for code, by its flag or, as TeX sets none, its name."""
    from pypdfium2 import raw

    name, flags = create_string_buffer(128), c_int()
    raw.FPDFText_GetFontInfo(page, index, name, len(name), flags)
    return bool(flags.value & 1) or _CODE_FONT.search(name.value) is not None


FORMAT = Format(read_pdf, endings=(".pdf",), needs=("pypdfium2",))
