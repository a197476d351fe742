"""The archives that Office documents and EPUB books are, read within bounds."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from mlmtune.corpus.decoding import read_binary
from mlmtune.corpus.records import FileLeftOut

MAX_MARKUP_BYTES = 1 << 25
"""The limit of all markup of a document, whose tree takes thirty times as much memory."""
_MAX_BYTES = 1 << 29

_MARKUP_ENDINGS = (".xml", ".rels", ".opf", ".xhtml", ".html", ".htm")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_OFFICE = "EncryptedPackage".encode("utf-16-le")


@contextmanager
def open_archive(path: str, kind: str) -> Iterator[zipfile.ZipFile]:
    """Open the archive of a document; what fails while it is read becomes a `FileLeftOut`.

    Args:
        path: The document.
        kind: What it should be, with an article, such as `a Word document`.

    Raises:
        FileLeftOut: Encrypted, damaged, or too large when it is unpacked.
    """
    content = read_binary(path)
    if content.startswith(_OLD_OFFICE):
        if _ENCRYPTED_OFFICE in content:
            raise FileLeftOut("encrypted", "it needs a password; save it without one")
        raise FileLeftOut("binary", f"it is a file of an old Office program; save it as {kind}")
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            _check_size(archive)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise not_valid(kind, error) from error
    except RuntimeError as error:
        if "password" not in str(error):
            raise
        raise FileLeftOut("encrypted", "it needs a password; save it without one") from error


def not_valid(kind: str, error: Exception) -> FileLeftOut:
    """Return the error of a document that cannot be read."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return FileLeftOut("damaged", f"not {kind} ({said}); fetch it again", broken=True)


def _check_size(archive: zipfile.ZipFile) -> None:
    """Refuse what is too large when unpacked; no entry is unpacked beyond its declared size."""
    sizes = [(entry.filename.lower(), entry.file_size) for entry in archive.infolist()]
    markup = sum(size for name, size in sizes if name.endswith(_MARKUP_ENDINGS))
    if markup > MAX_MARKUP_BYTES or sum(size for _, size in sizes) > _MAX_BYTES:
        detail = (
            f"over {MAX_MARKUP_BYTES >> 20} MiB of text, or {_MAX_BYTES >> 20} MiB in all, when it "
            "is unpacked; cut it"
        )
        raise FileLeftOut("too_large", detail)
