import bz2
import gzip
import lzma
import os
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus import decoding, encodings
from mlmtune.corpus.compression import COMPRESSIONS, uncompressed_name
from mlmtune.corpus.decoding import (
    Span,
    can_be_cut,
    count_line_ends,
    iter_lines,
    open_bytes,
    open_text,
    read_text,
)
from mlmtune.corpus.records import BrokenRecord, FileLeftOut

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\x02\0\0\0" + bytes(range(256)) * 20
FRENCH = "Le garçon est allé à l'école, où il a étudié la littérature."
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему."
CHINESE = "今天天气很好，我们去公园散步。\n微软公司发布了新的产品。\n"
JAPANESE = "今日は天気がいいので、公園へ散歩に行きましょう。明日は雨が降るでしょう。"

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}

texts = st.text(st.characters(categories=["L", "N", "P", "Zs"], include_characters="\n\t"))


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="file.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write_file


def reason_of(path, **options):
    with pytest.raises(FileLeftOut) as caught:
        read_text(path, **options)
    return caught.value.reason


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("text", ["plain words\nand more\n", CHINESE, "Grüße 😀\n"])
def test_unicode_is_read_with_and_without_a_mark(write, encoding, text):
    assert read_text(write(text.encode(encoding))) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (FRENCH, "cp1252"),
        ("only one naïve word " + "in a long English text " * 20, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (CHINESE, "gb18030"),
        (JAPANESE, "shift_jis"),
    ],
)
def test_encodings_from_before_unicode_are_recognised(write, text, encoding):
    assert read_text(write(text.encode(encoding))) == text


@given(text=texts, encoding=st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]))
def test_marked_text_round_trips(tmp_path_factory, text, encoding):
    path = tmp_path_factory.mktemp("round") / "file.txt"
    path.write_bytes(text.encode(encoding))
    assert read_text(str(path)) == text


@given(content=st.binary(max_size=400))
def test_any_bytes_are_text_or_left_out_with_a_reason(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "file.txt"
    path.write_bytes(content)
    try:
        text, reason = read_text(str(path)), None
        assert "".join(line for _, line in iter_lines(str(path)) if isinstance(line, str)) or text
    except FileLeftOut as fault:
        text, reason = None, fault.reason
    assert (text is None) == (reason in ("empty", "binary", "undecodable"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (PNG, "binary"),
        (b"\0" * 1000, "binary"),
        (b"\x7fELF\x02\1\1" + b"\0" * 9, "binary"),
    ],
)
def test_what_is_no_text_is_left_out(write, content, reason):
    assert reason_of(write(content)) == reason


def test_a_stray_control_character_makes_no_binary(write):
    assert read_text(write(b"words " * 100 + b"\0 more")).endswith("\0 more")


def test_a_broken_byte_in_utf8_is_named_and_not_guessed_around(write):
    path = write("Grüße aus Köln, schöne Straße. ".encode() * 3 + b"\xff end")
    with pytest.raises(FileLeftOut, match="byte 108") as caught:
        read_text(path)
    assert caught.value.reason == "undecodable"


def test_a_large_binary_costs_one_short_read(write, monkeypatch):
    path = write(PNG + b"\0" * (8 << 20))
    sizes = []
    detect = encodings.detect_encoding
    monkeypatch.setattr(
        encodings, "detect_encoding", lambda p, **k: sizes.append(len(p)) or detect(p, **k)
    )
    tracemalloc.start()
    assert reason_of(path) == "binary"
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()
    assert len(sizes) == 1


def test_text_over_the_limit_is_left_out(write):
    path = write(b"x" * 1001)
    assert reason_of(path, max_bytes=1000) == "too_large"
    assert len(read_text(path, max_bytes=1001)) == 1001


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_that_is_too_long_is_skipped_and_no_other(write, monkeypatch, encoding, ending):
    monkeypatch.setattr(decoding, "MAX_DOCUMENT_BYTES", 10)
    content = f"{'a' * 9}\n{'b' * 10}\n{'c' * 35}\nd\n{'e' * 11}".encode(encoding)
    path = write(COMPRESS.get(ending, bytes)(content), f"file.txt{ending}")
    lines = dict(iter_lines(path))
    assert {n: line for n, line in lines.items() if isinstance(line, str)} == {1: "a" * 9, 4: "d"}
    assert [lines[n].position for n in (2, 3, 5)] == [":2", ":3", ":5"]


def test_a_late_byte_decides_where_the_start_is_ascii(write):
    text = "a" * decoding._PREFIX_BYTES + "\n" + FRENCH
    assert read_text(write(text.encode("cp1252"))) == text


def test_a_character_cut_by_the_end_of_the_prefix_is_no_error(write):
    text = "a" * (decoding._PREFIX_BYTES - 1) + "é end"
    assert read_text(write(text.encode())) == text
    assert [line for _, line in iter_lines(write(text.encode()))] == [text]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "gb18030"])
def test_lines_come_numbered_without_their_ends(write, encoding):
    path = write("今天天气很好。\r\n\n第二行是这样的\nend".encode(encoding))
    assert list(iter_lines(path)) == [
        (1, "今天天气很好。"),
        (2, ""),
        (3, "第二行是这样的"),
        (4, "end"),
    ]


def test_a_line_that_does_not_decode_spoils_no_other(write):
    start = b"fine\n" * (decoding._PREFIX_BYTES // 5 + 1)
    lines = list(iter_lines(write(start + b"caf\xe9\nlast\n")))
    bad_number, bad = lines[-2]
    assert isinstance(bad, BrokenRecord)
    assert bad.position == f":{bad_number}"
    assert f"byte {len(start) + 3}" in bad.message
    assert lines[-1] == (bad_number + 1, "last")


def test_utf16_that_ends_within_a_character_is_a_broken_record(write):
    text = "word\n" * decoding._PREFIX_BYTES
    lines = list(iter_lines(write(text.encode("utf-16") + b"\x41")))
    assert lines[-2][1] == "word"
    assert isinstance(lines[-1][1], BrokenRecord)


def test_a_wide_line_longer_than_any_buffer_is_one_line(write):
    text = "word " * decoding._PREFIX_BYTES
    assert list(iter_lines(write(f"{text}\nend".encode("utf-16")))) == [(1, text), (2, "end")]


def test_a_stream_of_text_keeps_its_line_ends(write):
    with open_text(write("\ufeffzwölf\r\nzeilen\r".encode("utf-16-le"))) as stream:
        assert stream.read() == "zwölf\r\nzeilen\r"


def test_a_stream_of_text_names_the_byte_that_does_not_decode(write):
    start = b"\xef\xbb\xbf" + b"fine\n" * decoding._PREFIX_BYTES
    path = write(start + b"caf\xe9\nlast\n")
    with pytest.raises(FileLeftOut, match=f"byte {len(start) + 3};"), open_text(path) as stream:
        stream.read()
    with open_text(path, errors="surrogateescape") as stream:
        assert stream.read().endswith("caf\udce9\nlast\n")


def test_every_compression_is_tested():
    assert set(COMPRESS) == set(COMPRESSIONS)


@pytest.mark.parametrize("ending", [*COMPRESSIONS, ".GZ"])
def test_compression_is_undone(write, ending):
    content = COMPRESS[ending.lower()]("zwölf\nzeilen".encode())
    path = write(content, f"file.txt{ending}")
    assert read_text(path) == "zwölf\nzeilen"
    assert [line for _, line in iter_lines(path)] == ["zwölf", "zeilen"]
    assert uncompressed_name(path) == "file.txt"


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_archives_written_one_behind_the_other_are_read_as_one(write, ending):
    compress = COMPRESS[ending]
    assert read_text(write(compress(b"one ") + compress(b"two"), f"file{ending}")) == "one two"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c[:-20], "truncated"),
        (lambda c: c[:2000] + bytes(64) + c[2064:], "damaged"),
        (lambda c: b"no archive at all", "damaged"),
        (lambda c: b"", "empty"),
    ],
)
@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_damaged_archives_are_told_apart(write, ending, damage, reason):
    content = COMPRESS[ending](b"".join(b"%d words\n" % (i * i) for i in range(5000)))
    with pytest.raises(FileLeftOut) as caught:
        read_text(write(damage(content), f"file{ending}"))
    assert caught.value.reason == reason
    assert caught.value.broken == (reason != "empty")


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_lines_before_the_damage_are_read(write, ending):
    content = COMPRESS[ending](os.urandom(1 << 19).hex("\n", 32).encode())
    lines = []
    with pytest.raises(FileLeftOut, match="truncated"):
        lines.extend(line for _, line in iter_lines(write(content[:-20], f"file{ending}")))
    # `extend` keeps what it was given before the fault.
    assert {len(line) for line in lines} == {64}


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_lines_stream(write, ending):
    num_lines = 10_000
    path = write(COMPRESS[ending](b"%02000d\n" % 0 * num_lines), f"file{ending}")
    tracemalloc.start()
    assert sum(1 for _ in iter_lines(path)) == num_lines
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 20 MB of lines; an .xz looks back on 8 MiB.
    assert peak < 10 << 20


def test_what_a_decoder_cannot_make_sense_of_is_damage_and_no_fault_of_the_system(write):
    path = write(b"x", "file.arrow")
    with (
        pytest.raises(FileLeftOut, match=r"not a valid \.arrow \(no sense\)") as caught,
        open_bytes(path),
    ):
        raise OSError("no\nsense")
    assert caught.value.broken


def test_a_file_that_is_gone_is_vanished(tmp_path):
    assert reason_of(str(tmp_path / "gone.txt")) == "vanished"


def test_a_folder_in_the_place_of_a_file_is_unreadable(tmp_path):
    assert reason_of(str(tmp_path)) == "unreadable"


LINES = st.lists(st.sampled_from([b"", b"a", b"two words", b"x" * 40, "gr\u00fc\u00df".encode()]))


@given(lines=LINES, ends=st.booleans(), size=st.integers(4, 60), mark=st.booleans())
def test_spans_of_a_file_hold_each_of_its_lines_once(tmp_path_factory, lines, ends, size, mark):
    path = str(tmp_path_factory.mktemp("spans") / "a.txt")
    content = (b"\xef\xbb\xbf" if mark else b"") + b"\n".join([b"first", *lines]) + b"\n" * ends
    with open(path, "wb") as file:
        file.write(content)
    starts = list(range(0, len(content), size))
    numbers = count_line_ends(path, starts)
    found = []
    for start, number in zip(starts, numbers, strict=True):
        assert number == content[:start].count(b"\n")
        found += iter_lines(path, Span(start, start + size, number))
    assert found == list(iter_lines(path))


@pytest.mark.parametrize(
    ("name", "content", "can"),
    [
        ("a.txt", b"text\n", True),
        ("a.txt.gz", gzip.compress(b"text\n", mtime=0), False),
        ("a.txt", "text\n".encode("utf-16"), False),
        ("a.txt", b"\0\1\2\3" * 99, False),
    ],
)
def test_only_files_whose_lines_are_found_anywhere_are_cut(tmp_path, name, content, can):
    (tmp_path / name).write_bytes(content)
    assert can_be_cut(str(tmp_path / name)) is can
