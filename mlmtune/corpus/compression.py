"""Decompression by the ending of a file, and files that are not text, by their first bytes."""

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from typing import IO, Any


class _ZstdFile(io.RawIOBase):
    """The content of a `.zst` file. Seeking backwards reads it again from its start."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._restart()

    def _restart(self) -> None:
        import pyarrow as pa  # takes 0.1 s

        # Arrow closes the file that it is given, and this one may be read again from its start.
        unclosed = io.FileIO(self._raw.fileno(), closefd=False)
        unclosed.seek(0)
        self._content = pa.CompressedInputStream(pa.PythonFile(unclosed, mode="r"), "zstd")
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._content.read(len(buffer))
        except OSError as error:
            if "Truncated" in str(error):
                raise EOFError(str(error)) from error
            raise
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        if offset < self._position:
            self._restart()
        while self.read(min(offset - self._position, io.DEFAULT_BUFFER_SIZE)):
            pass
        return self._position


# Any, because mypy does not accept these as IO, though they have all of its methods.
DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda raw: io.BufferedReader(_ZstdFile(raw)),
}
COMPRESSIONS: tuple[str, ...] = tuple(DECOMPRESSORS)
"""The endings of compressed files that are read."""


def uncompressed_name(path: str) -> str:
    """Return the name of a file in small letters, without the ending of its compression."""
    name = os.path.basename(path).lower()
    stem, ending = os.path.splitext(name)
    return stem if ending in DECOMPRESSORS else name


_UNPACK = "unpack it, and give the files in it"
_CONVERT = "convert it to plain text"
_SET_FORMAT = "set format: docx, pptx or epub, or unpack it and give the files in it"

# The position of the mark, the mark, what the file is, and what to do. Some would pass for text: a
# PDF begins with a line of ASCII, and RTF is nothing but ASCII.
_NO_TEXT: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "gzip data", "end its name in .gz"),
    (0, b"BZh", "bzip2 data", "end its name in .bz2"),
    (0, b"\xfd7zXZ\0", "xz data", "end its name in .xz"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data", "end its name in .zst"),
    (0, b"\x04\x22\x4d\x18", "LZ4 data", "decompress it"),
    (0, b"\x1f\x9d", "data of `compress` (.Z)", "decompress it"),
    (0, b"PK\x03\x04", "a ZIP archive, or a file of Office, OpenDocument or EPUB", _SET_FORMAT),
    (0, b"PK\x05\x06", "an empty ZIP archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"%PDF-", "a PDF", "set format: pdf"),
    (0, b"%!PS-", "PostScript", _CONVERT),
    (0, b"{\\rtf", "RTF", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of an old Office program", _CONVERT),
    (0, b"SQLite format 3\0", "an SQLite database", "export its text"),
    (0, b"PAR1", "a Parquet file", "set format: parquet"),
    (0, b"ARROW1\0", "an Arrow file", "set format: parquet"),
)

_MARKS = tuple(mark for offset, mark, *_ in _NO_TEXT if offset == 0)


def name_if_no_text(prefix: bytes) -> str | None:
    """Return what a file is and what to do, if its first bytes show that it is not text."""
    if not prefix.startswith(_MARKS) and not prefix.startswith(b"ustar", 257):
        return None  # at once, because nearly all files are text
    for offset, mark, name, remedy in _NO_TEXT:
        if prefix.startswith(mark, offset):
            return f"it is {name}; {remedy}"
    return None
