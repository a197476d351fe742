"""Files to text, whatever their compression and encoding.

What a file is gets decided from its first bytes, so that a large binary costs one short read.
"""

import io
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import IO, AnyStr, Literal, NamedTuple

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
"""More is no document: memory would have to hold it several times over."""

_PREFIX_BYTES = 1 << 18
_COUNTED_BYTES = 1 << 20


def read_bytes(path: str, decoding: Decoding | None = None) -> bytes:
    """The content of a file, decompressed, once its start has been seen to be text.

    Raises:
        FileLeftOut: missing, unreadable, damaged, empty, too large, binary or undecodable.
    """
    return _read(path, MAX_DOCUMENT_BYTES, decoding or Decoding())[0]


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
        raise FileLeftOut(
            "too_large",
            f"over {max_bytes >> 20} MiB is too much for one document; cut it, or read it with "
            f"format: {roomier}",
        )
    return content, encoding


def read_text(
    path: str, max_bytes: int = MAX_DOCUMENT_BYTES, decoding: Decoding | None = None
) -> str:
    """The text of a file.

    Raises:
        FileLeftOut: see `read_bytes`.
    """
    decoding = decoding or Decoding()
    content, encoding = _read(path, max_bytes, decoding)
    is_long = len(content) >= _PREFIX_BYTES
    if decoding.wanted is None and is_long and holds_iso_2022(content) and content.isascii():
        # Seldom: everything up to the end of the prefix was plain ASCII.
        encoding = decoding.of(content, complete=True)
    try:
        return str(memoryview(content)[encoding.mark_bytes :], encoding.name)
    except UnicodeDecodeError as error:
        first_bad = error.start + encoding.mark_bytes
        if decoding.wanted is None and encoding.name == "utf-8":
            encoding = decoding.found = guess_legacy(content, first_bad)
            try:
                return content.decode(encoding.name)
            except UnicodeDecodeError as legacy_error:
                first_bad = legacy_error.start
        raise decoding.undecodable(first_bad, encoding.name) from error


class Span(NamedTuple):
    """Some lines of a file: those that begin in a range of its bytes.

    Attributes:
        start: the first byte of the range.
        end: the byte behind it.
        num_line_ends: line ends before `start`, from which lines are numbered on.
    """

    start: int
    end: int
    num_line_ends: int = 0


def can_be_cut(path: str, encoding: str | None = None) -> bool:
    """Whether a file's lines can be found from anywhere in it, and so be read span by span."""
    if path.lower().endswith(COMPRESSIONS):
        return False
    try:
        with open_bytes(path) as stream:
            found = _detect_from_start(stream, Decoding(encoding))
    except FileLeftOut:
        return False  # is reported when it is read
    return not is_read_in_order(found.name)


def count_line_ends(path: str, places: Sequence[int]) -> list[int]:
    """How many line ends are before each of some places of a file, given in order."""
    counts: list[int] = []
    num_line_ends = 0
    with open_bytes(path) as stream:
        for before, place in pairwise([0, *places]):
            left = place - before
            while left and (block := stream.read(min(left, _COUNTED_BYTES))):
                num_line_ends += block.count(b"\n")
                left -= len(block)
            counts.append(num_line_ends)
    return counts


def iter_lines(
    path: str, span: Span | None = None, decoding: Decoding | None = None
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """The lines of a file with their numbers from 1, without their ends, in flat memory.

    The encoding is given or recognised from the start of the file; a later line that does not fit
    it, or that is too long for a document, is given as a `BrokenRecord`.

    Args:
        path: the file.
        span: read the lines that begin in it alone; for files that `can_be_cut`.
        decoding: which encoding is wanted; notes the one that is found.

    Raises:
        FileLeftOut: see `read_bytes`; also midway, when a compressed file turns out to be damaged.
    """
    decoding = decoding or Decoding()
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream, decoding)
        stream.seek(encoding.mark_bytes)
        if is_read_in_order(encoding.name):
            yield from _iter_lines_in_order(stream, encoding.name)
            return
        # In every other encoding the byte 0x0A is a line's end, so that a bad line spoils no other.
        first = 1 if span is None else _seek_first_line(stream, span)
        end = None if span is None else span.end
        recognises = decoding.wanted is None
        for number, line in _numbered_lines(stream, b"\n", first, end):
            if isinstance(line, BrokenRecord):
                yield number, line
            elif recognises and holds_iso_2022(line):
                # Seldom: everything up to the end of the prefix was ASCII.
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
    """Go to the first line that begins in a span; gives its number."""
    if span.start == 0:
        return 1
    stream.seek(span.start - 1)
    begun = stream.readline(_COUNTED_BYTES)
    if begun == b"\n":
        return span.num_line_ends + 1
    while begun and not begun.endswith(b"\n"):
        begun = stream.readline(_COUNTED_BYTES)
    return span.num_line_ends + 2


def _iter_lines_in_order(
    stream: IO[bytes], encoding: str
) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Lines of UTF-16, ISO-2022 and the like: an error leaves no way to find the next line."""
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
    """The lines of a stream with their ends; a longer one than memory should hold is skipped.

    Args:
        stream: where the first line begins.
        line_end: ends a line.
        first: number of the first line.
        end: lines that begin here or later are not read.
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
    path: str,
    errors: Literal["strict", "surrogateescape"] = "strict",
    decoding: Decoding | None = None,
) -> Iterator[io.TextIOWrapper]:
    """A file as a stream of text, line ends as they are.

    The encoding is given or recognised from the file's start.

    Args:
        path: the file.
        errors: with `surrogateescape`, bytes that do not decode become lone surrogates, as far as
            the encoding lets them.
        decoding: which encoding is wanted; notes the one that is found.

    Raises:
        FileLeftOut: see `read_bytes`; also midway.
    """
    decoding = decoding or Decoding()
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream, decoding)
        stream.seek(encoding.mark_bytes)
        with io.TextIOWrapper(stream, encoding.name, errors, newline="") as text:
            try:
                yield text
            except UnicodeDecodeError as error:
                # What did not decode is the last that was taken from the stream.
                first_bad = stream.tell() - len(error.object) + error.start
                raise decoding.undecodable(first_bad, encoding.name) from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that took its place since the scan would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def uncompressed_name(path: str) -> str:
    """The name of a file in small letters, without the ending of its compression."""
    name = os.path.basename(path).lower()
    stem, ending = os.path.splitext(name)
    return stem if ending in DECOMPRESSORS else name


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed by its ending; every fault of reading is a `FileLeftOut`."""
    ending = os.path.splitext(path)[1].lower()
    try:
        with open(path, "rb", opener=_open_without_waiting) as raw:
            # A file of no bytes is empty, whatever its ending promises.
            is_compressed = ending in DECOMPRESSORS and raw.peek(1)
            yield DECOMPRESSORS[ending](raw) if is_compressed else raw
    except FileNotFoundError as error:
        raise FileLeftOut(
            "vanished", "was there when the folder was listed, and is gone"
        ) from error
    except EOFError as error:
        raise FileLeftOut(
            "truncated", f"the {ending} ends too early; fetch it again", broken=True
        ) from error
    except (zlib.error, lzma.LZMAError) as error:
        raise _damaged(ending, error) from error
    except OSError as error:
        # Not from the operating system: what is in the file made no sense to a decoder.
        if error.errno is None:
            raise _damaged(ending, error) from error
        raise FileLeftOut("unreadable", error.strerror or str(error)) from error


def _damaged(ending: str, error: Exception) -> FileLeftOut:
    said = " ".join(str(error).split())
    detail = f"not a valid {ending or 'file'} ({said}); fetch it again"
    return FileLeftOut("damaged", detail, broken=True)


def _detect_from_start(stream: IO[bytes], decoding: Decoding) -> Encoding:
    """The encoding, given or recognised from a prefix; the stream is put back to its start."""
    prefix = stream.read(_PREFIX_BYTES)
    encoding = decoding.of(prefix, complete=len(prefix) < _PREFIX_BYTES)
    stream.seek(0)
    return encoding
