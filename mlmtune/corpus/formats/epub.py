"""EPUB books: a file is a document."""

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from mlmtune.config import SourceConfig
from mlmtune.corpus.archives import not_valid, open_archive
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import FileLeftOut, RawDocument, Record

_KIND = "an EPUB"
_UNSEEN = "head, script, style, svg, .headerlink, .linenos, [hidden]"
_CONTENTS = "nav, [role=doc-toc], [role=doc-pagelist], [epub\\:type~=toc], [epub\\:type~=landmarks]"


def read_epub(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Join the chapters in the order of reading, below the title of the book."""
    from mlmtune.corpus.html_markdown import drop, drop_lists_of_links, parse_html, to_markdown

    chapters, num_removed = [], 0
    with open_archive(path, _KIND) as archive:
        try:
            title, names = _package(archive)
            for name in names:
                page = parse_html(archive.read(name))
                drop(page.select(_UNSEEN))
                num_removed += drop(page.select(_CONTENTS)) + drop_lists_of_links(page)
                chapters.append(to_markdown(page))
        except (KeyError, SyntaxError, StopIteration) as error:
            raise not_valid(_KIND, error) from error
    text = "\n\n".join(filter(None, chapters))
    if title and text and title not in text[: 2 * len(title)]:
        text = f"{title}\n\n{text}"
    yield RawDocument(text, removed={"boilerplate": num_removed})


def _package(archive: zipfile.ZipFile) -> tuple[str, list[str]]:
    """Return the title of a book and its chapters, by their names in the archive.

    Raises:
        FileLeftOut: The chapters are encrypted (DRM).
    """
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True)

    def attributes(root: etree._Element, path: str) -> list[dict[str, str]]:
        return [dict(element.attrib) for element in root.iterfind(path)]

    container = etree.fromstring(archive.read("META-INF/container.xml"), parser)
    location = next(iter(attributes(container, ".//{*}rootfile")))["full-path"]
    package = etree.fromstring(archive.read(location), parser)
    folder = posixpath.dirname(location)
    items = {item["id"]: item for item in attributes(package, ".//{*}manifest/{*}item")}
    names = []
    for reference in attributes(package, ".//{*}spine/{*}itemref"):
        item = items[reference["idref"]]
        if "html" in item["media-type"] and "nav" not in item.get("properties", "").split():
            names.append(posixpath.normpath(posixpath.join(folder, unquote(item["href"]))))
    if "META-INF/encryption.xml" in archive.namelist():  # of fonts alone, in most books
        encryption = etree.fromstring(archive.read("META-INF/encryption.xml"), parser)
        uris = {unquote(each["URI"]) for each in attributes(encryption, ".//{*}CipherReference")}
        if uris & set(names):
            raise FileLeftOut("encrypted", "it is protected against copying (DRM)")
    return " ".join(package.findtext(".//{*}metadata/{*}title", "").split()), names


FORMAT = Format(
    read_epub,
    endings=(".epub",),
    is_compressed_within=True,
    markup="markdown",
    needs=("markdownify", "lxml"),
)
