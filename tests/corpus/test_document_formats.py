"""Documents of Office, PDF, the web, EPUB, Jupyter and docutils, made here by hand."""

import io
import zipfile
from xml.sax.saxutils import escape

import nbformat
import pytest
from pptx import Presentation
from pptx.util import Inches

from mlmtune.config import CleaningConfig, MarkdownConfig, SourceConfig
from mlmtune.corpus import archives, formats
from mlmtune.corpus.cleaning import STEPS
from mlmtune.corpus.formats import pdf as pdf_format
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.records import BrokenRecord, FileLeftOut
from mlmtune.corpus.source_reader import CleanDocument, FileRead, SourceReader, Tally
from mlmtune.corpus.titles import title_of
from mlmtune.errors import ConfigError


@pytest.fixture
def events(tmp_path):
    """What becomes of a file, and how its characters are counted."""

    def of(format_, content, markdown=None, **settings):
        path = tmp_path / f"a.{format_}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = SourceConfig(format=format_, path=str(path), **settings)
        reader = SourceReader(source, CleaningConfig(), markdown or MarkdownConfig())
        tally = Tally()
        return list(reader.read_file(ListedFile("a", str(path), 1, "1"), tally)), tally

    return of


@pytest.fixture
def text_of(events):
    """The cleaned text of a file, and what was removed by step; the counts must add up."""

    def of(format_, content, markdown=None, **settings):
        (document, end), tally = events(format_, content, markdown, **settings)
        assert isinstance(document, CleanDocument)
        assert isinstance(end, FileRead)
        assert tally.num_characters == len(document.text) + tally.removed.total()
        assert set(tally.removed) <= set(STEPS)
        return document.text, tally.removed

    return of


@pytest.fixture
def fault_of(events):
    """Why a file is left out, and whether it is broken."""

    def of(format_, content, **settings):
        (fault,), _ = events(format_, content, **settings)
        assert isinstance(fault, FileLeftOut)
        return fault.reason, fault.detail, fault.broken

    return of


def pdf_of(pages, encrypted=False):
    """A PDF of pages, which are lists of (x, y, size, font, text); fonts are F1 and, fixed, F2."""
    contents = [
        "".join(f"BT /{f} {s} Tf {x} {y} Td ({text}) Tj ET\n" for x, y, s, f, text in page)
        for page in pages
    ]
    kids = " ".join(f"{5 + 2 * number} 0 R" for number in range(len(pages)))
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /{} /Encoding /WinAnsiEncoding >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        font.format("Helvetica"),
        font.format("Courier"),
    ]
    for number, content in enumerate(contents):
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents "
            f"{6 + 2 * number} 0 R /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>",
            f"<< /Length {len(content)} >>\nstream\n{content}endstream",
        ]
    out, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    key = "0123456789abcdef0123456789abcdef"
    encrypt = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O ({key}) /U ({key}) /P -4 >>"
    entries = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    return (
        f"{out}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{entries}trailer << /Root 1 0 R "
        f"/Size {len(objects) + 1} {f'{encrypt} /ID [(a) (a)]' if encrypted else ''} >>\n"
        f"startxref\n{len(out)}\n%%EOF\n"
    ).encode("latin-1")


def lines_of(texts, top=700, size=10, font="F1"):
    return [(72, top - 12 * n, size, font, text) for n, text in enumerate(texts)]


PAGE_1 = lines_of(
    ["The storage of a cluster is divided into volumes, each of which has a name and a",
     "size. A volume is attached to one machine, or to several if all of them only read. A tem-",
     "plate describes the volumes of a service."]
)  # fmt: skip


def test_the_lines_of_a_pdf_become_paragraphs(text_of):
    code = lines_of(["attach volume-1", "    detach the other volume"], 620, 10, "F2")
    page = [(72, 730, 16, "F1", "Storage"), *PAGE_1, *code]
    text, removed = text_of("pdf", pdf_of([page]))
    assert text == (
        "Storage\n\nThe storage of a cluster is divided into volumes, each of which has a name and "
        "a size. A volume is attached to one machine, or to several if all of them only read. A "
        "template describes the volumes of a service.\n\nattach volume-1\ndetach the other volume"
    )
    assert title_of(text) == "Storage"
    assert removed["boilerplate"] == 0


def test_a_word_that_is_cut_is_spelt_as_elsewhere_in_the_pdf(text_of):
    lines = ["The character set is either Latin or US-ASCII. All files of this folder are of US-",
             "ASCII, and no other. Their self-", "contained parts are not."]  # fmt: skip
    text, _ = text_of("pdf", pdf_of([lines_of(lines)]))
    assert "of US-ASCII, and" in text
    assert "Their selfcontained parts" in text  # nothing shows that it is a compound


def test_running_heads_and_page_numbers_of_a_pdf_are_left_out(text_of):
    def page(number, chapter):
        body = lines_of([f"Line {n} of page {number} goes on over the whole width" for n in "abc"])
        head = (72, 750, 9, "F1", f"Handbook, {chapter}")
        return [head, *body, (300, 40, 9, "F1", f"- {number} -")]

    pages = [page(1, "intro"), page(2, "intro"), page(3, "intro"), page(4, "the end")]
    text, removed = text_of("pdf", pdf_of(pages))
    assert "Handbook" not in text
    assert "- 2 -" not in text
    assert text.count("Line a") == 4
    assert removed["boilerplate"] == 3 * len("Handbook, intro") + len("Handbook, the end") + 20
    kept, removed = text_of("pdf", pdf_of(pages), boilerplate="keep")
    assert kept.count("Handbook") == 4
    assert removed["boilerplate"] == 0


def test_a_paragraph_goes_on_on_the_next_page_of_a_pdf(text_of):
    pages = [lines_of(["This sentence begins on a page and"]), lines_of(["ends on the next."])]
    text, _ = text_of("pdf", pdf_of(pages))
    assert text == "This sentence begins on a page and ends on the next."


def test_the_table_of_contents_of_a_pdf_is_left_out(text_of):
    page = lines_of(["Contents", "1 Volumes . . . . . . . . . . . 12", "2 Names ........ iv"])
    assert text_of("pdf", pdf_of([page]))[0] == "Contents"


def test_a_pdf_with_a_password_or_without_text_is_left_out_and_not_broken(fault_of):
    reason, detail, broken = fault_of("pdf", pdf_of([PAGE_1], encrypted=True))
    assert (reason, broken) == ("encrypted", False)
    assert "qpdf --decrypt" in detail
    reason, detail, broken = fault_of("pdf", pdf_of([[], []]))
    assert (reason, broken) == ("no_text", False)
    assert detail.startswith("2 pages without text")
    assert "ocrmypdf" in detail


def test_a_pdf_that_is_too_long_is_left_out(fault_of, monkeypatch):
    monkeypatch.setattr(pdf_format, "_MAX_CHARACTERS", 50)
    assert fault_of("pdf", pdf_of([PAGE_1]))[0] == "too_large"


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        ("pdf", b"%PDF-1.4\nnothing"),
        ("docx", b"PK\x03\x04 cut"),
        ("docx", {"a.xml": "<a/>"}),
        ("docx", {"word/document.xml": "<w:document"}),
        ("pptx", {"a.xml": "<a/>"}),
        ("epub", {"mimetype": "application/epub+zip"}),
        ("epub", {"META-INF/container.xml": "<container/>"}),
        ("epub", {"META-INF/container.xml": "<contain"}),
    ],
)
def test_a_document_that_is_cut_is_damaged(fault_of, format_, content):
    content = content if isinstance(content, bytes) else zipped(content)
    reason, detail, broken = fault_of(format_, content)
    assert (reason, broken) == ("damaged", True)
    assert detail.startswith("not a")
    assert "\n" not in detail


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("format_", ["docx", "pptx", "epub"])
def test_an_archive_that_unpacks_to_too_much_is_left_out(fault_of, format_, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MARKUP_BYTES", 1000)
    reason, _, broken = fault_of(format_, zipped({"word/document.xml": " " * 1001}))
    assert (reason, broken) == ("too_large", False)


def test_files_of_old_office_programs_and_encrypted_ones_are_told_apart(fault_of):
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    assert fault_of("docx", ole)[:2] == (
        "binary", "it is a file of an old Office program; save it as a Word document (.docx)",
    )  # fmt: skip
    encrypted = ole + "EncryptedPackage".encode("utf-16-le")
    assert fault_of("pptx", encrypted)[0] == "encrypted"


def docx_of(*paragraphs, table=()):
    """A Word document of (style, text), and a table below it."""
    styles = {style for style, _ in paragraphs if style}
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'

    def paragraph(style, text):
        properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
        return f"<w:p>{properties}<w:r><w:t>{escape(text)}</w:t></w:r></w:p>"

    rows = "".join(
        "<w:tr>" + "".join(f"<w:tc>{paragraph(None, cell)}</w:tc>" for cell in row) + "</w:tr>"
        for row in table
    )
    names = "".join(
        f'<w:style w:type="paragraph" w:styleId="{style}"><w:name w:val="{style}"/></w:style>'
        for style in styles
    )
    body = "".join(paragraph(*each) for each in paragraphs) + f"<w:tbl>{rows}</w:tbl>"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    return zipped(
        {
            "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r" Type="{office}'
            '/officeDocument" Target="word/document.xml"/></Relationships>',
            "word/_rels/document.xml.rels": f'<Relationships xmlns="{relations}"><Relationship '
            f'Id="s" Type="{office}/styles" Target="styles.xml"/></Relationships>',
            "word/document.xml": f"<w:document {word}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": f"<w:styles {word}>{names}</w:styles>",
        }
    )


def test_a_word_document_is_read_by_its_styles(text_of):
    content = docx_of(
        ("Title", "Volumes"), ("TOC1", "Names 12"), ("Heading1", "Names"),
        (None, "A name has 1. letters & <digits>, *never* spaces_."), ("Code", "a = 1"),
        ("Code", "  b = 2"), table=[["key", "value"], ["size", "3|4"]],
    )  # fmt: skip
    text, removed = text_of("docx", content)
    assert text == (
        "Volumes\n\nNames\n\nA name has 1. letters & <digits>, *never* spaces_.\n\na = 1\n  b = 2"
        "\n\nkey | value\nsize | 3|4"
    )
    assert title_of(text) == "Volumes"
    assert removed["boilerplate"] == len("Names 12")


def test_the_settings_of_markdown_hold_for_all_documents(text_of):
    content = docx_of((None, "Prose."), ("Code", "a = 1"), table=[["a", "b"], ["c", "d"]])
    text, removed = text_of("docx", content, MarkdownConfig(code_blocks="drop", tables="drop"))
    assert text == "Prose."
    assert removed["code_blocks"]
    assert removed["tables"]


def test_slides_are_read_with_their_tables_and_notes(text_of):
    presentation = Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Why volumes?"
    slide.placeholders[1].text_frame.text = "They outlive machines"
    slide.placeholders[1].text_frame.add_paragraph().text = "1. They grow"
    cells = slide.shapes.add_table(1, 2, 0, 0, Inches(2), Inches(1)).table
    cells.cell(0, 0).text, cells.cell(0, 1).text = "key", "value"
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 1, 1).text_frame.text = "in a group"
    slide.notes_slide.notes_text_frame.text = "Ask for questions."
    out = io.BytesIO()
    presentation.save(out)
    text, _ = text_of("pptx", out.getvalue())
    assert text == (
        "Why volumes?\n\nThey outlive machines\n1. They grow\n\nkey | value\n\nin a group\n\n"
        "Ask for questions."
    )


PROSE = "Volumes outlive the machines that they are attached to, and can grow while they are used. "
PAGE = f"""<!DOCTYPE html><html><head><title>Volumes — Handbook</title><style>p {{}}</style></head>
<body><header><a href="/">Handbook</a></header><nav><a href="a">A</a></nav>
<div class="cookie-banner">We use cookies. <button>Accept</button></div>
<div id="content"><h1>Volumes<a class="headerlink" href="#v">¶</a></h1><p>{PROSE * 4}</p>
<p>Write <code>a_b &lt;c&gt;</code>:</p><div class="highlight"><pre>if a:
    <span>b</span> = "```"<br>c</pre></div>
<dl><dt>size</dt><dd>in <b>bytes</b></dd></dl><ul><li>one</li><li>two</li></ul>
<ul><li><a href="x">Next</a></li><li><a href="y">Up</a></li><li><a href="z">Back</a></li></ul></div>
<footer>© The Handbook</footer><script>track()</script></body></html>"""


def test_a_web_page_is_read_without_what_its_site_puts_around_it(text_of):
    text, removed = text_of("html", PAGE)
    assert text == (
        f'Volumes\n\n{(PROSE * 4).strip()}\n\nWrite a_b <c>:\n\nif a:\n    b = "```"\nc\n\nsize\n\n'
        "in bytes\n\none\ntwo"
    )
    dropped = ("Handbook", "A", "We use cookies. Accept", "¶", "Next Up Back", "© The Handbook")
    assert removed["boilerplate"] >= sum(map(len, dropped))
    kept, removed = text_of("html", PAGE, boilerplate="keep")
    assert {"We use cookies. Accept", "© The Handbook", "Next"} <= set(kept.splitlines())
    assert "track" not in kept
    assert "boilerplate" not in removed


def test_the_main_element_of_a_web_page_is_its_text(text_of):
    page = f"<body><div>Share this</div><main><p>{PROSE}</p></main><div>Latest news</div></body>"
    assert text_of("html", page)[0] == PROSE.strip()


def test_a_web_page_that_is_one_form_is_read(text_of):
    assert text_of("html", f"<body><form class=menu><p>{PROSE}</p></form></body>")[0] == PROSE[:-1]


def test_a_web_page_of_endless_elements_is_broken(fault_of):
    assert fault_of("html", "<div>" * 100_000 + "text") == (
        "broken", "over 150 elements within each other", True,
    )  # fmt: skip


def test_the_name_of_the_site_above_the_title_of_a_web_page_is_left_out(text_of):
    page = f"<title>On names | S</title><h1>The S site</h1><h2>On\u00a0names</h2><p>{PROSE}</p>"
    text, removed = text_of("html", page)
    assert text == f"On names\n\n{PROSE.strip()}"
    assert removed["boilerplate"] == len("The S site")
    assert "The S site" in text_of("html", page, boilerplate="keep")[0]


def test_the_title_of_a_web_page_is_its_first_line(text_of):
    text, _ = text_of("html", f"<title>On names | Site</title><p>{PROSE}</p>")
    assert title_of(text) == "On names"


def test_a_web_page_may_name_its_encoding(text_of):
    page = f'<meta charset="iso-8859-2"><p>{"Žluťoučký kůň úpěl ďábelské ódy. " * 3}</p>'
    assert text_of("html", page.encode("iso-8859-2"))[0].startswith("Žluťoučký kůň")
    page = f'<meta charset="iso-8859-2"><p>{PROSE}«ž»</p>'
    assert "«ž»" in text_of("html", page)[0]  # it is UTF-8, whatever it says


def epub_of(*chapters, extra=""):
    items = "".join(
        f'<item id="c{n}" href="c%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in range(len(chapters))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Book</dc:title></metadata>'
        f'<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" '
        f'properties="nav"/>{items}</manifest><spine><itemref idref="nav"/>{spine}</spine>'
        "</package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    )
    pages = {
        f"OPS/c {n}.xhtml": f'<?xml version="1.0"?><html><body>{text}</body></html>'
        for n, text in enumerate(chapters)
    }
    encryption = {"META-INF/encryption.xml": extra} if extra else {}
    return zipped(
        {"META-INF/container.xml": container, "OPS/book.opf": package, **pages, **encryption}
    )


def test_a_book_is_read_in_the_order_of_its_spine(text_of):
    content = epub_of("<h1>Two</h1><p>Ünd.</p>", "<nav>One Two</nav><h1>One</h1><p>Begin.</p>")
    text, removed = text_of("epub", content)
    assert text == "The Book\n\nOne\n\nBegin.\n\nTwo\n\nÜnd."
    assert removed["boilerplate"] == len("One Two")


def test_a_book_that_is_protected_is_left_out_and_one_with_protected_fonts_is_read(
    fault_of, text_of
):
    def encryption(name):
        return f'<encryption xmlns:e="x"><e:CipherReference URI="{name}"/></encryption>'

    protected = epub_of("<p>a</p>", extra=encryption("OPS/c%200.xhtml"))
    assert fault_of("epub", protected) == (
        "encrypted", "it is protected against copying (DRM)", False,
    )  # fmt: skip
    assert text_of("epub", epub_of("<p>a</p>", extra=encryption("OPS/a.otf")))[0] == "The Book\n\na"


def notebook():
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", text="x\n"),
        v4.new_output("execute_result", {"text/plain": "42", "image/png": "aGk="}),
    ]
    cells = [
        v4.new_markdown_cell("# Volumes\n\nThey *grow*."),
        v4.new_code_cell("a = '```'\nprint(a)\n", outputs=outputs),
        v4.new_raw_cell(""),
    ]  # fmt: skip
    return nbformat.writes(v4.new_notebook(cells=cells))


def test_a_notebook_is_prose_and_code_and_its_outputs_only_if_wanted(text_of):
    text, removed = text_of("notebook", notebook())
    assert text == "Volumes\n\nThey grow.\n\na = '```'\nprint(a)"
    assert removed["outputs"] == len("x42")
    text, removed = text_of("notebook", notebook(), outputs="keep")
    assert text.endswith("print(a)\n\nx\n\n42")
    assert removed["outputs"] == 0


@pytest.mark.parametrize("content", ["{}", "[1]", '{"cells": 1, "nbformat": 4}', "no JSON"])
def test_what_is_no_notebook_is_broken(fault_of, content):
    reason, detail, broken = fault_of("notebook", content)
    assert (reason, broken) == ("broken", True)
    assert detail.startswith("not a notebook (")


RST = """
:orphan:

.. _volumes:

=======
Volumes
=======

They |grow|, see :ref:`the names <names>`, :py:func:`~a.b.attach` and ``code``.

.. toctree::
   :maxdepth: 2

   names

.. versionadded:: 3.2
   The *size*.

.. code-block:: python
   :linenos:
   :unknown:

   if a:
       b = 1

.. py:function:: attach(a, *, b)
   :noindex:

   Attaches a volume.

.. raw:: html

   <b>never</b>

.. include:: /etc/passwd
"""


def test_restructured_text_is_read_with_what_sphinx_adds(text_of):
    text, _ = text_of("rst", RST)
    assert text == (
        "Volumes\n\nThey grow, see the names, attach and code.\n\n3.2 The size.\n\nif a:\n"
        "    b = 1\n\nattach(a, *, b)\n\nAttaches a volume."
    )


def test_directives_of_one_page_change_no_other(text_of):
    text_of("rst", ".. note::\n   :any: x\n\n   a\n\n.. new::\n\n   b\n")
    assert text_of("rst", ".. note::\n\n   Keep *this*.\n")[0] == "Note\n\nKeep this."


def test_an_empty_document_holds_no_text(events):
    for format_, content in (("docx", docx_of()), ("rst", "..\n"), ("html", "<p></p>")):
        (document, _), _ = events(format_, content)
        assert document.text == ""


def test_a_format_whose_library_is_missing_names_the_command(monkeypatch):
    formats.check_available("text")
    formats.check_available("pdf")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    formats.check_available("text")
    with pytest.raises(ConfigError, match=r"format: pdf needs pypdfium2; .*mlmtune\[documents\]"):
        formats.check_available("pdf")


def test_a_broken_page_of_a_pdf_spoils_no_other(events):
    content = pdf_of([PAGE_1, PAGE_1]).replace(
        b"7 0 obj\n<< /Type /Page ", b"7 0 obj\n<< /Type /Bage "
    )
    (fault, document, _), _ = events("pdf", content)
    assert isinstance(fault, BrokenRecord)
    assert fault.position == " (page 2)"
    assert document.text.startswith("The storage of a cluster")


def test_the_first_line_of_each_page_of_a_pdf_stays_even_if_it_is_repeated(text_of):
    page = lines_of(["The same sentence is the first of all pages.", "It is followed by another."])
    assert text_of("pdf", pdf_of([page] * 4))[0].count("The same sentence") == 4
