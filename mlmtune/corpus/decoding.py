"""Files to text: compression, encodings, and what is no text at all.

What a file is gets decided from its first bytes, so that a large binary costs one short read.
"""

import codecs
import gzip
import os
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, NamedTuple

import charset_normalizer

_PREFIX_BYTES = 1 << 18
_LEGACY_SAMPLE_BYTES = 1 << 13
_PLAUSIBILITY_CHARACTERS = 1 << 12

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
    """The content of a file, `.gz` undone, once its start has been seen to be text.

    Raises:
        FileLeftOut: missing, unreadable, damaged, empty, binary or undecodable.
    """
    return _read(path, None)[0]


def _read(path: str, max_bytes: int | None) -> tuple[bytes, Encoding]:
    with _open(path) as stream:
        encoding = _detect_from_start(stream)
        content = stream.read() if max_bytes is None else stream.read(max_bytes + 1)
    if max_bytes is not None and len(content) > max_bytes:
        raise FileLeftOut(
            "too_large",
            f"over {max_bytes >> 20} MiB is no page of Markdown; read it with format: text",
        )
    return content, encoding


def read_text(path: str, max_bytes: int | None = None) -> str:
    """The text of a file.

    Raises:
        FileLeftOut: see `read_bytes`; or the file has more than `max_bytes`.
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


def iter_lines(path: str) -> Iterator[tuple[int, str | BrokenRecord]]:
    """The lines of a file with their numbers from 1, without their ends, in flat memory.

    The encoding is told from the start of the file; a later line that does not fit it is given as
    a `BrokenRecord`.

    Raises:
        FileLeftOut: see `read_bytes`; also midway, when a `.gz` turns out to be damaged.
    """
    with _open(path) as stream:
        encoding = _detect_from_start(stream)
        stream.seek(encoding.mark_bytes)
        if encoding.name in _MULTIBYTE_UNITS:
            yield from _iter_wide_lines(stream, encoding.name)
            return
        # In every other encoding the byte 0x0A is a line's end, so that a bad line spoils no other.
        offset = encoding.mark_bytes
        for number, line in enumerate(stream, start=1):
            try:
                yield number, line.decode(encoding.name).rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"not {encoding.name} at byte {offset + error.start} of the file"
                yield number, BrokenRecord(f":{number}", f"{where}; convert the file to UTF-8")
            offset += len(line)


def _iter_wide_lines(stream: IO[bytes], encoding: str) -> Iterator[tuple[int, str | BrokenRecord]]:
    """Lines of UTF-16 or UTF-32, where an error leaves no way to find the next line."""
    decoder = codecs.getincrementaldecoder(encoding)()
    number, unfinished, at_end = 1, "", False
    while not at_end:
        content = stream.read(_PREFIX_BYTES)
        at_end = not content
        try:
            unfinished += decoder.decode(content, final=at_end)
        except UnicodeDecodeError:
            message = f"not {encoding} from here on; convert the file to UTF-8"
            yield number, BrokenRecord(f":{number}", message)
            return
        *lines, unfinished = unfinished.split("\n")
        for line in lines:
            yield number, line.rstrip("\r")
            number += 1
    if unfinished:
        yield number, unfinished


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that took its place since the scan would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    """The file's bytes, `.gz` undone; every fault of reading becomes a `FileLeftOut`."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as raw:
            if path.lower().endswith(".gz"):
                yield gzip.GzipFile(fileobj=raw)  # type: ignore[misc]
            else:
                yield raw
    except FileNotFoundError as error:
        raise FileLeftOut(
            "vanished", "was there when the folder was listed, and is gone"
        ) from error
    except EOFError as error:
        raise FileLeftOut(
            "truncated", "the .gz ends too early; fetch it again", broken=True
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise FileLeftOut("damaged", f"not a sound .gz ({error})", broken=True) from error
    except OSError as error:
        raise FileLeftOut("unreadable", error.strerror or str(error)) from error


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
