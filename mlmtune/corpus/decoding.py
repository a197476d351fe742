"""The text of files, whatever their compression and encoding.

The first bytes of a file show what it is, so that a large binary costs one short read.
"""

import io
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import IO, AnyStr, NamedTuple

from mlmtune.corpus.compression import COMPRESSIONS, DECOMPRESSORS
from mlmtune.corpus.encodings import (
    ADVICE,
    Decoding,
    Encoding,
    guess_legacy,
    holds_iso_2022,
    is_read_in_order,
)
from mlmtune.corpus.records import BrokenRecord, FileLeftOut

MAX_DOCUMENT_BYTES = 1 << 26
"""The limit of a document's size, because memory must hold it several times."""

MAX_BINARY_BYTES = 1 << 28
"""The limit of the size of a file that is mostly pictures, which is held once."""

_PREFIX_BYTES = 1 << 18
_COUNTED_BYTES = 1 << 20


def read_bytes(path: str, decoding: Decoding) -> bytes:
    """Return the decompressed content of a file, if its start shows that it is text.

    Raises:
        FileLeftOut: Missing, unreadable, damaged, empty, too large, binary or undecodable.
    """
    return _read(path, MAX_DOCUMENT_BYTES, decoding)[0]


def read_binary(path: str) -> bytes:
    """Return the decompressed content of a file that is not text.

    Raises:
        FileLeftOut: Missing, unreadable, damaged, empty or too large.
    """
    with open_bytes(path) as stream:
        content = stream.read(MAX_BINARY_BYTES + 1)
    if not content:
        raise FileLeftOut("empty", "no bytes")
    if len(content) > MAX_BINARY_BYTES:
        raise FileLeftOut("too_large", f"over {MAX_BINARY_BYTES >> 20} MiB; cut it")
    return content


def _read(path: str, max_bytes: int, decoding: Decoding) -> tuple[bytes, Encoding]:
    with open_bytes(path) as stream:
        content = stream.read(_PREFIX_BYTES)
        is_whole = len(content) < _PREFIX_BYTES
        encoding = decoding.of(content, complete=is_whole)
        if not is_whole:
            stream.seek(0)
            content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        roomier = "text" if max_bytes < MAX_DOCUMENT_BYTES else "lines"
        fault = f"over {max_bytes >> 20} MiB is too much for one document"
        raise FileLeftOut("too_large", f"{fault}; cut it, or read it with format: {roomier}")
    return content, encoding


def read_text(
    path: str, max_bytes: int = MAX_DOCUMENT_BYTES, decoding: Decoding | None = None
) -> str:
    """Return the text of a file.

    Raises:
        FileLeftOut: See `read_bytes`.
    """
    decoding = decoding or Decoding()
    content, encoding = _read(path, max_bytes, decoding)
    is_long = len(content) >= _PREFIX_BYTES
    if decoding.wanted is None and is_long and holds_iso_2022(content) and content.isascii():
        # Rare: everything up to the end of the prefix was plain ASCII.
        encoding = decoding.of(content, complete=True)
    try:
        return str(memoryview(content)[encoding.mark_bytes :], encoding.name)
    except UnicodeDecodeError as error:
        first_bad = error.start + encoding.mark_bytes
        if decoding.wanted is None and encoding.name == "utf-8":
            encoding = decoding.used = guess_legacy(content, first_bad)
            try:
                return content.decode(encoding.name)
            except UnicodeDecodeError as legacy_error:
                first_bad = legacy_error.start
        raise decoding.undecodable(first_bad, encoding.name) from error


class Span(NamedTuple):
    """The lines of a file that begin in a range of its bytes.

    Attributes:
        start: The first byte of the range.
        end: The byte behind the range.
        num_line_ends: The number of line ends before `start`, from which lines are numbered.
    """

    start: int
    end: int
    num_line_ends: int = 0


def can_be_cut(path: str, encoding: str | None = None) -> bool:
    """Whether the lines of a file can be found from any byte, so that it can be read in spans."""
    if path.lower().endswith(COMPRESSIONS):
        return False
    try:
        with open_bytes(path) as stream:
            detected = _detect_from_start(stream, Decoding(encoding))
    except FileLeftOut:
        return False  # is reported when it is read
    return not is_read_in_order(detected.name)


def count_line_ends(path: str, positions: Sequence[int]) -> list[int]:
    """Count the line ends before each of some positions of a file, which are ascending."""
    counts: list[int] = []
    num_line_ends = 0
    with open_bytes(path) as stream:
        for before, position in pairwise([0, *positions]):
            left = position - before
            while left and (block := stream.read(min(left, _COUNTED_BYTES))):
                num_line_ends += block.count(b"\n")
                left -= len(block)
            counts.append(num_line_ends)
    return counts


def iter_lines(
    path: str, span: Span | None = None, decoding: Decoding | None = None
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Yield the lines of a file with their numbers from 1, without their ends, in flat memory.

    The encoding is given or recognised from the start of the file. A later line that does not fit
    it, or that is too long for a document, becomes a `BrokenRecord`.

    Args:
        path: A file, which may be compressed.
        span: The lines to read, of a file that `can_be_cut`; None for all.
        decoding: The encoding that is wanted; it records the one that is used.

    Raises:
        FileLeftOut: See `read_bytes`; also midway, when a compressed file turns out to be damaged.
    """
    decoding = decoding or Decoding()
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream, decoding)
        stream.seek(encoding.mark_bytes)
        if is_read_in_order(encoding.name):
            yield from _iter_lines_in_order(stream, encoding.name)
            return
        # In all other encodings the byte 0x0A ends a line, so that a bad line affects no other.
        first, end = (_seek_first_line(stream, span), span.end) if span else (1, None)
        for number, line in _numbered_lines(stream, b"\n", first, end):
            if isinstance(line, BrokenRecord):
                yield number, line
            elif decoding.wanted is None and holds_iso_2022(line):
                # Rare: everything up to the end of the prefix was ASCII.
                message = "characters of ISO-2022; set encoding (iso2022_jp)"
                yield number, BrokenRecord(f":{number}", message)
            else:
                try:
                    yield number, line.decode(encoding.name).rstrip("\r\n")
                except UnicodeDecodeError as error:
                    first_bad = stream.tell() - len(line) + error.start
                    where = f"not {encoding.name} at byte {first_bad} of the file"
                    yield number, BrokenRecord(f":{number}", f"{where}; {ADVICE}")


def _seek_first_line(stream: IO[bytes], span: Span) -> int:
    """Go to the first line that begins in a span, and return its number."""
    if span.start == 0:
        return 1
    stream.seek(span.start - 1)
    rest = stream.readline(_COUNTED_BYTES)
    if rest == b"\n":
        return span.num_line_ends + 1
    while rest and not rest.endswith(b"\n"):
        rest = stream.readline(_COUNTED_BYTES)
    return span.num_line_ends + 2


def _iter_lines_in_order(
    stream: IO[bytes], encoding: str
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Yield the lines of UTF-16, ISO-2022 and the like, up to the first that does not decode."""
    number = 0
    with io.TextIOWrapper(stream, encoding, newline="\n") as lines:
        try:
            for number, line in _numbered_lines(lines, "\n"):
                yield number, line.rstrip("\r\n") if isinstance(line, str) else line
        except UnicodeDecodeError:
            message = f"not {encoding} from here on; {ADVICE}"
            yield number + 1, BrokenRecord(f":{number + 1}", message)


def _numbered_lines(
    stream: IO[AnyStr], line_end: AnyStr, first: int = 1, end: int | None = None
) -> Iterator[tuple[int, AnyStr | BrokenRecord]]:
    """Yield the lines of a stream with their ends; one that is too long for memory is skipped.

    Lines are numbered from `first`. No line is read that begins at the position `end` or later.
    """
    for number in count(first):
        if end is not None and stream.tell() >= end:
            return
        line = stream.readline(MAX_DOCUMENT_BYTES + 1)
        if not line:
            return
        if len(line) <= MAX_DOCUMENT_BYTES:
            yield number, line
            continue
        while line and not line.endswith(line_end):
            line = stream.readline(MAX_DOCUMENT_BYTES)
        message = f"a line of over {MAX_DOCUMENT_BYTES >> 20} MiB; cut it"
        yield number, BrokenRecord(f":{number}", message)


@contextmanager
def open_text(
    path: str, errors: str = "strict", decoding: Decoding | None = None
) -> Iterator[io.TextIOWrapper]:
    """Open a file as a stream of text, whose line ends are kept.

    Args:
        path: A file, which may be compressed.
        errors: With `surrogateescape`, bytes that do not decode become lone surrogates, as far as
            the encoding allows it.
        decoding: The encoding that is wanted; it records the one that is used.

    Raises:
        FileLeftOut: See `read_bytes`; also midway.
    """
    decoding = decoding or Decoding()
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream, decoding)
        stream.seek(encoding.mark_bytes)
        with io.TextIOWrapper(stream, encoding.name, errors, newline="") as text:
            try:
                yield text
            except UnicodeDecodeError as error:
                # The decoder failed in the bytes that it took from the stream last.
                first_bad = stream.tell() - len(error.object) + error.start
                raise decoding.undecodable(first_bad, encoding.name) from error


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a file, decompressed by its ending; every error of reading becomes a `FileLeftOut`."""
    ending = os.path.splitext(path)[1].lower()
    try:
        # If a pipe has replaced the file since it was listed, opening it must not block forever.
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        ) as raw:
            # A file of no bytes is empty, whatever its ending says.
            is_compressed = ending in DECOMPRESSORS and raw.peek(1)
            yield DECOMPRESSORS[ending](raw) if is_compressed else raw
    except FileNotFoundError as error:
        detail = "existed when the folder was listed, and is gone"
        raise FileLeftOut("vanished", detail) from error
    except EOFError as error:
        detail = f"the {ending} ends too early; fetch it again"
        raise FileLeftOut("truncated", detail, broken=True) from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        # Errors of the operating system have a number; those of a decompressor have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise FileLeftOut("unreadable", error.strerror or str(error)) from error
        said = " ".join(str(error).split())
        detail = f"not a valid {ending or 'file'} ({said}); fetch it again"
        raise FileLeftOut("damaged", detail, broken=True) from error


def _detect_from_start(stream: IO[bytes], decoding: Decoding) -> Encoding:
    """Return the encoding, given or recognised, and put the stream back to its start."""
    prefix = stream.read(_PREFIX_BYTES)
    encoding = decoding.of(prefix, complete=len(prefix) < _PREFIX_BYTES)
    stream.seek(0)
    return encoding
