"""Files to text: compression, encodings, and what is no text at all.

What a file is gets decided from its first bytes, so that a large binary costs one short read.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from typing import IO, Any, AnyStr, Literal, NamedTuple

import charset_normalizer

MAX_DOCUMENT_BYTES = 1 << 26
"""More is no document: memory would have to hold it several times over."""

_PREFIX_BYTES = 1 << 18
_COUNTED_BYTES = 1 << 20
_LEGACY_SAMPLE_BYTES = 1 << 13
_PLAUSIBILITY_CHARACTERS = 1 << 12

# mypy takes none of these for an IO, though each has all of its methods.
_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
COMPRESSIONS: tuple[str, ...] = tuple(_DECOMPRESSORS)
"""The endings of compressed files."""

# Text holds hardly any control characters; compressed or compiled bytes hold about 10 %.
_MAX_CONTROL_SHARE = 0.05
# All but tab, line feed, vertical tab, form feed, carriage return, escape (colours of a terminal).
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"

# UTF-32 first: its little-endian mark begins with the mark of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_MULTIBYTE_UNITS = {"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}

# What people's old files are in. Left to guess among all codecs, the detector finds EBCDIC in short
# texts.
_LEGACY_ENCODINGS = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
    *("koi8_r", "koi8_u", "iso8859_2", "iso8859_5", "iso8859_7", "iso8859_15", "mac_roman"),
    *("gb18030", "big5", "shift_jis", "euc_jp", "cp949", "cp874", "cp866"),
]

# Each shows the other's text with small letters and capitals swapped; text has more small ones.
_CYRILLIC = ("cp1251", "koi8_r")

# Letters and signs of Western Europe beyond ASCII. The encodings of one byte a character differ in
# few places, and the detector takes French for Hungarian.
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÍÎÏÑÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœ¡¿«»“”„—…•°§©®™€£·½\xa0"
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{EN DASH}\N{ACUTE ACCENT}"
)


class FileLeftOut(Exception):
    """A file cannot be read as text.

    Args:
        reason: the word it is counted under (`binary`, `vanished`, ...).
        detail: what is wrong, for people.
        broken: the file is damaged, so that `corpus.on_error` decides whether to go on.
    """

    def __init__(self, reason: str, detail: str, *, broken: bool = False) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.broken = broken


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be read.

    Attributes:
        place: where in the file, as it is written after the file's name (`:17` for a line).
        message: what is wrong and how to mend it.
    """

    place: str
    message: str


class Encoding(NamedTuple):
    """How the bytes of a file become text."""

    name: str
    mark_bytes: int
    """Length of the byte order mark that precedes the text."""


def read_bytes(path: str) -> bytes:
    """The content of a file, decompressed, once its start has been seen to be text.

    Raises:
        FileLeftOut: missing, unreadable, damaged, empty, too large, binary or undecodable.
    """
    return _read(path, MAX_DOCUMENT_BYTES)[0]


def _read(path: str, max_bytes: int) -> tuple[bytes, Encoding]:
    with open_bytes(path) as stream:
        content = stream.read(_PREFIX_BYTES)
        is_whole = len(content) < _PREFIX_BYTES
        encoding = detect_encoding(content, complete=is_whole)
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


def read_text(path: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """The text of a file.

    Raises:
        FileLeftOut: see `read_bytes`.
    """
    content, encoding = _read(path, max_bytes)
    try:
        return str(memoryview(content)[encoding.mark_bytes :], encoding.name)
    except UnicodeDecodeError as error:
        first_bad = error.start + encoding.mark_bytes
        if encoding.name == "utf-8":
            # Seldom: everything before the end of the prefix was ASCII.
            name = _legacy_encoding(content, first_bad)
            try:
                return content.decode(name)
            except UnicodeDecodeError as legacy_error:
                first_bad = legacy_error.start
        raise FileLeftOut("undecodable", f"not {encoding.name} at byte {first_bad}") from error


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


def can_be_cut(path: str) -> bool:
    """Whether a file's lines can be found from anywhere in it, and so be read span by span."""
    if path.lower().endswith(COMPRESSIONS):
        return False
    try:
        with open_bytes(path) as stream:
            return _detect_from_start(stream).name not in _MULTIBYTE_UNITS
    except FileLeftOut:
        return False  # is told when it is read


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


def iter_lines(path: str, span: Span | None = None) -> Iterator[tuple[int, str | BrokenRecord]]:
    """The lines of a file with their numbers from 1, without their ends, in flat memory.

    The encoding is told from the start of the file; a later line that does not fit it, or that is
    too long for a document, is given as a `BrokenRecord`.

    Args:
        path: the file.
        span: read the lines that begin in it alone; for files that `can_be_cut`.

    Raises:
        FileLeftOut: see `read_bytes`; also midway, when a compressed file turns out to be damaged.
    """
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream)
        stream.seek(encoding.mark_bytes)
        if encoding.name in _MULTIBYTE_UNITS:
            yield from _iter_wide_lines(stream, encoding.name)
            return
        # In every other encoding the byte 0x0A is a line's end, so that a bad line spoils no other.
        first = 1 if span is None else _seek_first_line(stream, span)
        end = None if span is None else span.end
        for number, line in _numbered_lines(stream, b"\n", first, end):
            if isinstance(line, BrokenRecord):
                yield number, line
                continue
            try:
                yield number, line.decode(encoding.name).rstrip("\r\n")
            except UnicodeDecodeError as error:
                first_bad = stream.tell() - len(line) + error.start
                where = f"not {encoding.name} at byte {first_bad} of the file"
                yield number, BrokenRecord(f":{number}", f"{where}; convert the file to UTF-8")


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


def _iter_wide_lines(stream: IO[bytes], encoding: str) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Lines of UTF-16 or UTF-32, where an error leaves no way to find the next line."""
    number = 0
    with io.TextIOWrapper(stream, encoding, newline="\n") as lines:
        try:
            for number, line in _numbered_lines(lines, "\n"):
                yield number, line.rstrip("\r\n") if isinstance(line, str) else line
        except UnicodeDecodeError:
            message = f"not {encoding} from here on; convert the file to UTF-8"
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
    path: str, errors: Literal["strict", "surrogateescape"] = "strict"
) -> Iterator[io.TextIOWrapper]:
    """A file as a stream of text, line ends as they are; the encoding is told from its start.

    Args:
        path: the file.
        errors: with `surrogateescape`, bytes that do not decode become lone surrogates, as far as
            the encoding lets them.

    Raises:
        FileLeftOut: see `read_bytes`; also midway.
    """
    with open_bytes(path) as stream:
        encoding = _detect_from_start(stream)
        stream.seek(encoding.mark_bytes)
        with io.TextIOWrapper(stream, encoding.name, errors, newline="") as text:
            try:
                yield text
            except UnicodeDecodeError as error:
                # What did not decode is the last that was taken from the stream.
                first_bad = stream.tell() - len(error.object) + error.start
                detail = f"not {encoding.name} at byte {first_bad}; convert the file to UTF-8"
                raise FileLeftOut("undecodable", detail) from error


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that took its place since the scan would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def uncompressed_name(path: str) -> str:
    """The name of a file in small letters, without the ending of its compression."""
    name = os.path.basename(path).lower()
    stem, ending = os.path.splitext(name)
    return stem if ending in _DECOMPRESSORS else name


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed by its ending; every fault of reading is a `FileLeftOut`."""
    ending = os.path.splitext(path)[1].lower()
    try:
        with open(path, "rb", opener=_open_without_waiting) as raw:
            # A file of no bytes is empty, whatever its ending promises.
            is_compressed = ending in _DECOMPRESSORS and raw.peek(1)
            yield _DECOMPRESSORS[ending](raw) if is_compressed else raw
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
    detail = f"not a sound {ending or 'file'} ({said}); fetch it again"
    return FileLeftOut("damaged", detail, broken=True)


def _detect_from_start(stream: IO[bytes]) -> Encoding:
    """The encoding, told from a prefix; the stream is put back to its start."""
    prefix = stream.read(_PREFIX_BYTES)
    encoding = detect_encoding(prefix, complete=len(prefix) < _PREFIX_BYTES)
    stream.seek(0)
    return encoding


def detect_encoding(prefix: bytes, *, complete: bool) -> Encoding:
    """How the bytes of a file are text, by their start.

    Tried in this order: a byte order mark, UTF-8, UTF-16 and UTF-32 without a mark, older ones.

    Args:
        prefix: the first bytes of the file.
        complete: the prefix is the whole file; otherwise it may end within a character.

    Raises:
        FileLeftOut: `empty`, `binary` or `undecodable`.
    """
    if not prefix:
        raise FileLeftOut("empty", "no bytes")
    for mark, name in _BYTE_ORDER_MARKS.items():
        if prefix.startswith(mark) and _decodes(prefix[len(mark) :], name, complete):
            return Encoding(name, len(mark))

    num_controls = len(prefix) - len(prefix.translate(None, _CONTROL_BYTES))
    few_controls = num_controls <= _MAX_CONTROL_SHARE * len(prefix)
    first_bad = _first_bad_byte(prefix, complete)
    if few_controls and first_bad is None:
        return Encoding("utf-8", 0)
    if b"\0" in prefix:
        for name in _MULTIBYTE_UNITS:
            if _zero_bytes_fit(prefix, name) and _decodes(prefix, name, complete):
                return Encoding(name, 0)
    if not few_controls or b"\0" in prefix or first_bad is None:
        raise FileLeftOut("binary", "its first bytes are no text")
    return Encoding(_legacy_encoding(prefix, first_bad), 0)


def _first_bad_byte(prefix: bytes, complete: bool) -> int | None:
    """Where the bytes stop being UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(prefix, final=complete)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _decodes(content: bytes, name: str, complete: bool) -> bool:
    """Whether bytes decode, and to characters that are in use: no test of words or languages."""
    unit = _MULTIBYTE_UNITS.get(name, 1)
    if complete and len(content) % unit:
        return False
    try:
        text = codecs.getincrementaldecoder(name)().decode(content, final=complete)
    except UnicodeDecodeError:
        return False
    sample = text[:_PLAUSIBILITY_CHARACTERS]
    odd = sum(
        unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in "\t\n\v\f\r\x1b"
        for character in sample
    )
    return odd <= _MAX_CONTROL_SHARE * len(sample)


def _zero_bytes_fit(prefix: bytes, name: str) -> bool:
    """Whether zero bytes stand mostly where the wide encoding puts those of common characters."""
    unit = _MULTIBYTE_UNITS[name]
    low, high = (0, unit - 1) if name.endswith("le") else (unit - 1, 0)
    return prefix[high::unit].count(0) > prefix[low::unit].count(0)


def _legacy_encoding(content: bytes, first_bad: int) -> str:
    """The likeliest encoding from before Unicode, judged around the first byte beyond UTF-8."""
    start = content.rfind(b"\n", max(0, first_bad - _LEGACY_SAMPLE_BYTES // 2), first_bad) + 1
    start = start or max(0, first_bad - _LEGACY_SAMPLE_BYTES // 2)
    sample = content[start : start + _LEGACY_SAMPLE_BYTES]
    if start + len(sample) < len(content):
        # End between characters: a space or line feed is no second byte in any of the encodings.
        end = max(sample.rfind(b"\n"), sample.rfind(b" "))
        sample = sample[:end] if end > 0 else sample

    num_bad = len(sample.decode("utf-8", "replace")) - len(sample.decode("utf-8", "ignore"))
    num_beyond_ascii = sum(character > "\x7f" for character in sample.decode("utf-8", "ignore"))
    if num_beyond_ascii > num_bad:
        raise FileLeftOut("undecodable", f"UTF-8 but for byte {first_bad}; mend or convert it")
    try:
        if all(
            character <= "\x7f" or character in _WESTERN for character in sample.decode("cp1252")
        ):
            return "cp1252"
    except UnicodeDecodeError:
        pass
    best = charset_normalizer.from_bytes(sample, cp_isolation=_LEGACY_ENCODINGS).best()
    if best is None:
        raise FileLeftOut("undecodable", f"not UTF-8 at byte {first_bad}, nor any older encoding")
    if best.encoding in _CYRILLIC:
        return max(
            _CYRILLIC, key=lambda name: sum(map(str.islower, sample.decode(name, "replace")))
        )
    return best.encoding
