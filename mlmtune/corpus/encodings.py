"""The encoding of a file: given by the user, or recognised from the file's start."""

import codecs
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import charset_normalizer

from mlmtune.corpus.compression import name_if_no_text
from mlmtune.corpus.records import FileLeftOut

_LEGACY_SAMPLE_BYTES = 1 << 13
_PLAUSIBILITY_CHARACTERS = 1 << 12

# Text holds hardly any control characters; compressed or compiled bytes hold about 10 %.
_MAX_CONTROL_SHARE = 0.05
# All but tab, line feed, vertical tab, form feed, carriage return, escape (terminal colours).
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

# Encodings of 7 bits, in which an escape sequence says what the following bytes are. Sequences that
# only return to ASCII are left out, because terminals use them too.
_ISO_2022 = re.compile(rb"\x1b\$(?:[@AB]|\([CDOPQ]|\)[ACEG]|\*H)")
_ISO_2022_NAMES = (
    "iso2022_jp", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_jp_2004", "iso2022_kr",
)  # fmt: skip
_SHIFTS = re.compile("\x1b\\$|[\x0e\x0f]")
_STATEFUL = ("iso2022", "hz", "utf-7", "utf7")

# The encodings of old files. Left to guess among all codecs, the detector finds EBCDIC in short
# texts.
_LEGACY_ENCODINGS = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
    *("koi8_r", "koi8_u", "iso8859_2", "iso8859_5", "iso8859_7", "iso8859_15", "mac_roman"),
    *("gb18030", "big5", "shift_jis", "euc_jp", "cp949", "cp874", "cp866"),
]

# Each decodes the other's text with small letters and capitals swapped; text has more small ones.
_CYRILLIC = ("cp1251", "koi8_r")

# Letters and signs of Western Europe beyond ASCII. Encodings of one byte per character differ in
# few characters, and the detector takes French for Hungarian.
_WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÍÎÏÑÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœ¡¿«»“”„—…•°§©®™€£·½\xa0"
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{EN DASH}\N{ACUTE ACCENT}"
)
_SIGNS = frozenset(c for c in _WESTERN if not c.isalpha())

# The letters beyond ASCII of languages in Latin script, by the encodings of their old files. A text
# whose letters all belong to one language is most likely in that language.
_ALPHABETS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("cp1252",): (
        "àâæçèéêëîïôœùûüÿ", "äöüß", "áéíñóúü", "àáâãçéêíóôõúü", "àèéìíòóùú", "åäöé", "æøåéô",
        "áæéíðóöúýþ", "àçèéíïòóúü", "äëéïóöüèáí",
    ),
    ("cp1250", "iso8859_2"): (
        "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "ąćęłńóśźż", "áéíóöőúüű", "ăâîșțşţ", "čćđšž",
    ),
    ("cp1254",): ("âçğ\N{LATIN SMALL LETTER DOTLESS I}îöşüûi\N{COMBINING DOT ABOVE}",),
    ("cp1257",): ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
}  # fmt: skip

_UTF8_CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_CERTAINLY_UTF8 = 8
"""So many UTF-8 sequences, and no invalid byte, do not occur by chance in another encoding."""


class Encoding(NamedTuple):
    """How the bytes of a file become text.

    Attributes:
        name: The name of the codec.
        mark_bytes: The length of the byte order mark that precedes the text.
        is_guess: Whether other encodings would give another text, and nothing rules them out.
    """

    name: str
    mark_bytes: int = 0
    is_guess: bool = False


@dataclass
class Decoding:
    """The encoding that is wanted for a file, and the one that is used.

    Attributes:
        wanted: The encoding by a name that Python knows; None to recognise it.
        used: The encoding of the text; None until it is known.
    """

    wanted: str | None = None
    used: Encoding | None = None

    def of(self, prefix: bytes, *, complete: bool) -> Encoding:
        """Return the encoding of a file by its first bytes; see `detect_encoding`."""
        if self.wanted is None:
            self.used = detect_encoding(prefix, complete=complete)
        else:
            self.used = _check_given(prefix, self.wanted, complete)
        return self.used

    def undecodable(self, first_bad: int, encoding: str) -> FileLeftOut:
        """Return the error of a file whose text cannot be decoded from a byte on."""
        is_given = self.wanted is not None
        remedy = "correct the encoding that is set" if is_given else ADVICE
        detail = f"not {encoding} at byte {first_bad}; {remedy}"
        return FileLeftOut("undecodable", detail, broken=is_given)


ADVICE = "set encoding, or convert the file to UTF-8"


def is_read_in_order(encoding: str) -> bool:
    """Whether a line can be found and decoded only after everything that precedes it."""
    return encoding.startswith(_STATEFUL) or "\n".encode(encoding) != b"\n"


def holds_iso_2022(content: bytes) -> bool:
    """Whether bytes that look like ASCII hold characters of ISO-2022."""
    return b"\x1b$" in content and _ISO_2022.search(content) is not None


def detect_encoding(prefix: bytes, *, complete: bool) -> Encoding:
    """Recognise the encoding of a file by its first bytes.

    Tried in this order: a byte order mark, the escape sequences of ISO-2022, UTF-8, UTF-16 and
    UTF-32 without a mark, legacy encodings.

    Args:
        prefix: The first bytes of the file.
        complete: Whether the prefix is the whole file; otherwise it may end within a character.

    Raises:
        FileLeftOut: `empty`, `binary` or `undecodable`.
    """
    if (marked := _encoding_by_mark(prefix, complete)) is not None:
        return marked
    if prefix.isascii() and holds_iso_2022(prefix):
        return _iso_2022(prefix, complete)

    few_controls = _has_few_controls(prefix)
    first_bad = _first_not_utf8(prefix, complete)
    if few_controls and first_bad is None:
        return Encoding("utf-8")
    if b"\0" in prefix:
        for name in _MULTIBYTE_UNITS:
            if _zero_bytes_fit(prefix, name) and _decodes(prefix, name, complete):
                return Encoding(name)
    if not few_controls or b"\0" in prefix or first_bad is None:
        raise FileLeftOut("binary", "its first bytes are not text")
    return guess_legacy(prefix, first_bad)


def _check_given(prefix: bytes, name: str, complete: bool) -> Encoding:
    """Return the encoding that the user names, unless the file shows that it has another.

    Raises:
        FileLeftOut: `empty`, `binary` or `undecodable`.
    """
    if (marked := _encoding_by_mark(prefix, complete)) is not None:
        if codecs.lookup(name).name in (marked.name, marked.name[:-3], "utf-8-sig"):
            return marked
        raise _contradicted(f"its byte order mark says {marked.name}, not {name}")
    # Without a mark, Python would decode `utf-16` in the byte order of this machine.
    name = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(codecs.lookup(name).name, name)
    if not is_read_in_order(name):
        if not _has_few_controls(prefix) or b"\0" in prefix:
            raise FileLeftOut("binary", f"its first bytes are not text in {name}")
        is_utf8 = (
            codecs.lookup(name).name not in ("utf-8", "utf-8-sig")
            and len(_UTF8_CHARACTER.findall(prefix[:_LEGACY_SAMPLE_BYTES])) >= _CERTAINLY_UTF8
            and _first_not_utf8(prefix, complete) is None
        )
        if is_utf8:
            raise _contradicted(f"it is UTF-8, not {name}")
    return Encoding(name)


def _contradicted(fault: str) -> FileLeftOut:
    detail = f"{fault}; correct or remove the encoding that is set, or exclude the file"
    return FileLeftOut("undecodable", detail, broken=True)


def _encoding_by_mark(prefix: bytes, complete: bool) -> Encoding | None:
    """Return the encoding of a byte order mark, unless the file is empty or known to be binary."""
    if not prefix:
        raise FileLeftOut("empty", "no bytes")
    if (what := name_if_no_text(prefix)) is not None:
        raise FileLeftOut("binary", what)
    for mark, name in _BYTE_ORDER_MARKS.items():
        if prefix.startswith(mark) and _decodes(prefix[len(mark) :], name, complete):
            return Encoding(name, len(mark))
    return None


def _has_few_controls(prefix: bytes) -> bool:
    num_controls = len(prefix) - len(prefix.translate(None, _CONTROL_BYTES))
    return num_controls <= _MAX_CONTROL_SHARE * len(prefix)


def _first_not_utf8(content: bytes, complete: bool) -> int | None:
    if content.isascii():
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(content, final=complete)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _decoded(content: bytes, name: str, complete: bool = True) -> str | None:
    try:
        return codecs.getincrementaldecoder(name)().decode(content, final=complete)
    except UnicodeDecodeError:
        return None


def _iso_2022(prefix: bytes, complete: bool) -> Encoding:
    """Return the variant that decodes the bytes and leaves no escape sequence in the text."""
    for name in _ISO_2022_NAMES:
        text = _decoded(prefix, name, complete)
        if text is not None and not _SHIFTS.search(text):
            return Encoding(name)
    detail = "it is written in a variant of ISO-2022 that Python cannot decode (ISO-2022-CN?)"
    raise FileLeftOut("undecodable", f"{detail}; convert it to UTF-8")


def _decodes(content: bytes, name: str, complete: bool) -> bool:
    """Whether bytes decode to characters that are in use; words and languages do not matter."""
    unit = _MULTIBYTE_UNITS.get(name, 1)
    if complete and len(content) % unit:
        return False
    text = _decoded(content, name, complete)
    if text is None:
        return False
    sample = text[:_PLAUSIBILITY_CHARACTERS]
    odd = sum(
        unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in "\t\n\v\f\r\x1b"
        for character in sample
    )
    return odd <= _MAX_CONTROL_SHARE * len(sample)


def _zero_bytes_fit(prefix: bytes, name: str) -> bool:
    """Whether most zero bytes are where the encoding has those of common characters."""
    unit = _MULTIBYTE_UNITS[name]
    low, high = (0, unit - 1) if name.endswith("le") else (unit - 1, 0)
    return prefix[high::unit].count(0) > prefix[low::unit].count(0)


def guess_legacy(content: bytes, first_bad: int) -> Encoding:
    """Guess the legacy encoding of a file from the text around the first byte that is not UTF-8.

    Raises:
        FileLeftOut: `undecodable`: it is UTF-8 with a broken byte, or no encoding fits.
    """
    start = content.rfind(b"\n", max(0, first_bad - _LEGACY_SAMPLE_BYTES // 2), first_bad) + 1
    start = start or max(0, first_bad - _LEGACY_SAMPLE_BYTES // 2)
    sample = content[start : start + _LEGACY_SAMPLE_BYTES]
    if start + len(sample) < len(content):
        # Cut between characters: in none of the encodings is a space or line feed a second byte.
        end = max(sample.rfind(b"\n"), sample.rfind(b" "))
        sample = sample[:end] if end > 0 else sample

    num_bad = len(sample.decode("utf-8", "replace")) - len(sample.decode("utf-8", "ignore"))
    num_beyond_ascii = sum(character > "\x7f" for character in sample.decode("utf-8", "ignore"))
    if num_beyond_ascii > num_bad:
        raise FileLeftOut("undecodable", f"UTF-8 but for byte {first_bad}; fix or convert it")
    return Encoding(_likeliest_of_legacy(sample, first_bad), is_guess=True)


def _likeliest_of_legacy(sample: bytes, first_bad: int) -> str:
    if (name := _by_alphabet(sample)) is not None:
        return name
    western = _decoded(sample, "cp1252")
    if western is not None and all(c <= "\x7f" or c in _WESTERN for c in western):
        return "cp1252"
    best = charset_normalizer.from_bytes(sample, cp_isolation=_LEGACY_ENCODINGS).best()
    if best is None:
        detail = f"not UTF-8 at byte {first_bad}, nor any older encoding; {ADVICE}"
        raise FileLeftOut("undecodable", detail)
    if best.encoding in _CYRILLIC:
        return max(
            _CYRILLIC, key=lambda name: sum(map(str.islower, sample.decode(name, "replace")))
        )
    return best.encoding


def _by_alphabet(sample: bytes) -> str | None:
    """Return the first encoding in which all letters beyond ASCII are of one alphabet."""
    for names, alphabets in _ALPHABETS.items():
        for name in names:
            beyond = {c for c in _decoded(sample, name) or "" if c > "\x7f"} - _SIGNS
            letters = {letter for c in beyond for letter in c.lower()}
            if letters and any(letters <= set(alphabet) for alphabet in alphabets):
                return name
    return None
