"""The encoding of a file: given, recognised, or guessed and then reported as a guess."""

import pytest

from mlmtune.corpus import decoding
from mlmtune.corpus.compression import name_if_no_text
from mlmtune.corpus.decoding import can_be_cut, iter_lines, read_text
from mlmtune.corpus.encodings import Decoding, Encoding, detect_encoding
from mlmtune.corpus.records import BrokenRecord, FileLeftOut

HUNGARIAN = "A hűvös őszön a gyűjtő több szőlőt hozott, mint a tűzoltó fúrógépe."
CZECH = "Žluťoučký kůň běžel přes žitné pole a štěkal na něj šťastný pes."
POLISH = "Wśród gęstych łąk płynęła cicha źródlana struga, a żona śpiewała."
TURKISH = "Şimdi ağaçların altında İstanbul'un ışıkları göründü, gözü doldu."
FRENCH = "Le garçon est allé à l'école, où il a étudié la littérature."
GERMAN = "Über den Flüssen und in den Wäldern, auf großen Straßen."
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему."
JAPANESE = "昨日は川沿いを歩いた。本は棚の上にある。"
KOREAN = "어제는 강을 따라 걸었다. 책은 선반 위에 있다."


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="file.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write_file


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (HUNGARIAN, "cp1250"),
        (HUNGARIAN, "iso8859_2"),
        (CZECH, "cp1250"),
        (CZECH, "iso8859_2"),
        (POLISH, "cp1250"),
        (TURKISH, "cp1254"),
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
    ],
)
def test_an_encoding_of_one_byte_is_guessed_by_the_letters_and_called_a_guess(
    write, text, encoding
):
    found = Decoding()
    assert read_text(write(text.encode(encoding)), decoding=found) == text
    assert found.used.is_guess


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (JAPANESE, "iso2022_jp"),
        ("漢字と日本語の文、简体字", "iso2022_jp_2"),
        (KOREAN, "iso2022_kr"),
        (JAPANESE, "utf-8"),
        (JAPANESE, "utf-16"),
        ("plain words", "ascii"),
    ],
)
def test_what_only_one_encoding_explains_is_no_guess(write, text, encoding):
    found = Decoding()
    path = write(f"{text}\nand more\n".encode(encoding))
    assert read_text(path, decoding=found) == f"{text}\nand more\n"
    assert not found.used.is_guess
    assert [line for _, line in iter_lines(path)] == [text, "and more"]


def test_colours_of_a_terminal_are_no_other_encoding():
    content = b"\x1b[31mred\x1b[0m \x1b(B and \x1b$ 5"
    assert detect_encoding(content, complete=True) == Encoding("utf-8")


def test_a_variant_of_iso_2022_that_nobody_decodes_is_named(write):
    with pytest.raises(FileLeftOut, match="ISO-2022") as caught:
        read_text(write(b"\x1b$)A\x0e=;;;\x0f and \x1b$*H more\n"))
    assert caught.value.reason == "undecodable"


def test_iso_2022_that_begins_late_is_not_taken_for_ascii(write):
    start = "a" * decoding._PREFIX_BYTES + "\n"
    path = write((start + JAPANESE).encode("iso2022_jp"))
    assert read_text(path) == start + JAPANESE
    *_, (number, line) = iter_lines(path)
    assert isinstance(line, BrokenRecord)
    assert (number, line.position) == (2, ":2")
    assert "set encoding (iso2022_jp)" in line.message
    *_, last = iter_lines(path, decoding=Decoding("iso2022_jp"))
    assert last == (2, JAPANESE)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", CZECH),
        ("koi8_u", RUSSIAN),
        ("utf-16-be", CZECH),
        ("cp037", "plain words"),
        ("shift_jis", JAPANESE),
        ("hz", "你好 one"),
    ],
)
def test_an_encoding_that_is_given_is_taken(write, encoding, text):
    found = Decoding(encoding)
    path = write(f"{text}\nlast".encode(encoding))
    assert read_text(path, decoding=found) == f"{text}\nlast"
    assert found.used == Encoding(encoding)
    assert list(iter_lines(path, decoding=Decoding(encoding))) == [(1, text), (2, "last")]
    assert can_be_cut(path, encoding) == (encoding in ("cp1250", "koi8_u", "shift_jis"))


def test_utf_16_that_is_given_is_read_with_and_without_its_mark(write):
    for content in (JAPANESE.encode("utf-16"), JAPANESE.encode("utf-16-le")):
        assert read_text(write(content), decoding=Decoding("utf-16")) == JAPANESE
    assert read_text(write(b"\xef\xbb\xbfword"), decoding=Decoding("utf-8")) == "word"


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (RUSSIAN.encode(), "koi8_r", "it is UTF-8, not koi8_r"),
        (RUSSIAN.encode("utf-16"), "cp1251", "its byte order mark says utf-16-le, not cp1251"),
        (
            RUSSIAN.encode("cp1251"),
            "utf-8",
            "not utf-8 at byte 0; correct the encoding that is set",
        ),
        (b"fine \x81", "cp1252", "not cp1252 at byte 5; correct the encoding that is set"),
    ],
)
def test_a_file_that_contradicts_the_encoding_given_is_an_error(write, content, encoding, message):
    with pytest.raises(FileLeftOut) as caught:
        read_text(write(content), decoding=Decoding(encoding))
    assert caught.value.broken
    assert message in caught.value.detail


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"7z\xbc\xaf\x27\x1c\0", "a 7-Zip archive"),
        (b"\x1f\x8b\x08\0", "gzip data; end its name in .gz"),
        (b"\x28\xb5\x2f\xfd\0", "Zstandard data; end its name in .zst"),
        (b"a.txt" + bytes(252) + b"ustar\0", "a tar archive"),
        (b"%PDF-1.4\n1 0 obj\n", "a PDF"),
        (b"{\\rtf1\\ansi words}", "RTF"),
    ],
)
def test_archives_and_documents_of_other_programs_are_named(write, content, name):
    with pytest.raises(FileLeftOut, match=name) as caught:
        read_text(write(content))
    assert caught.value.reason == "binary"
    assert name_if_no_text(b"text that begins as text does") is None
