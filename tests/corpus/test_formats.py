import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlmtune.config import FormatName, SourceConfig, Sources
from mlmtune.corpus import formats
from mlmtune.corpus.encodings import ADVICE, Decoding
from mlmtune.corpus.formats import csv as csv_format
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.formats import json as json_format
from mlmtune.corpus.formats import sentences as sentences_format
from mlmtune.corpus.records import (
    BrokenRecord,
    FileLeftOut,
    RawDocument,
    Value,
    record_of,
    text_columns,
)

# A dataset is not a file.
FORMATS = sorted(set(get_args(FormatName)) - {"dataset"})


def records_of(format_, path, text_field=None, **settings):
    source = SourceConfig(format=format_, path=str(path), text_field=text_field, **settings)
    return format_of(format_).read(str(path), source, Decoding(source.encoding))


@pytest.fixture
def read(tmp_path):
    def read_file(format_, name, content, text_field=None, **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(records_of(format_, path, text_field, **settings))

    return read_file


def texts(records):
    assert all(isinstance(record, RawDocument) for record in records), records
    return [record.text for record in records]


def fault_of(read, *arguments):
    """What is said of a file that is broken."""
    with pytest.raises(FileLeftOut) as caught:
        read(*arguments)
    assert caught.value.broken
    return str(caught.value)


def peak_of(format_, path):
    """Number of records, and the most memory that Python took for them."""
    tracemalloc.start()
    num_records = sum(1 for _ in records_of(format_, path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return num_records, peak


def test_every_format_of_the_config_has_a_module_with_a_reader_and_endings():
    folder = Path(formats.__file__).parent
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == FORMATS
    assert all(callable(format_of(name).read) and format_of(name).endings for name in FORMATS)


@pytest.mark.parametrize("name", sorted({*FORMATS} - {"text", "lines", "sentences", "python"}))
def test_a_path_alone_is_of_the_format_that_has_its_ending(name):
    for ending in format_of(name).file_endings:
        (source,) = TypeAdapter(Sources).validate_python(f"a{ending}")
        assert source.format == name


def test_endings_are_those_of_the_format_and_of_each_compression():
    assert format_of("text").file_endings == (".txt", ".txt.gz", ".txt.bz2", ".txt.xz", ".txt.zst")
    assert format_of("parquet").file_endings == format_of("parquet").endings


@pytest.mark.parametrize(
    ("value", "record"),
    [
        ("plain", RawDocument("plain", "#1")),
        ({"title": "T", "content": "c"}, RawDocument("T\n\nc", "#1")),
        (
            {"text": datetime.date.min},
            BrokenRecord(":1", "field 'text' is of type date, not a string", lacks_text=True),
        ),
        ({"text": 5.5}, BrokenRecord(":1", "field 'text' is a number, not a string", True)),
        ([], BrokenRecord(":1", "a string or an object is needed, not a list")),
    ],
)
def test_a_value_is_a_document_or_says_why_not(value, record):
    assert record_of(Value(value, "#1", ":1"), None) == record


@pytest.mark.parametrize(
    ("columns", "text_field", "taken"),
    [
        (["id", "text", "content", "title"], None, ["text"]),
        (["content", "title"], None, ["title", "content"]),
        (["content"], None, ["content"]),
        (["content", "title"], "content", ["content"]),
    ],
)
def test_only_the_columns_that_the_text_is_taken_from_are_needed(columns, text_field, taken):
    assert text_columns(columns, text_field) == taken
    row, needed = (Value({name: name for name in names}, "", "") for names in (columns, taken))
    assert record_of(row, text_field) == record_of(needed, text_field)


def test_many_columns_are_listed_in_one_short_line():
    with pytest.raises(FileLeftOut, match=r"the columns are: column\n?") as caught:
        text_columns([f"column\n{number}" for number in range(10_000)], None)
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("format_", ["markdown", "text"])
def test_a_file_is_a_document(read, format_):
    assert read(format_, "a.txt", "one\n\ntwo\n") == [RawDocument("one\n\ntwo\n", "")]


def test_a_line_is_a_document_and_a_blank_one_is_not(read):
    records = read("lines", "a.txt", " \n = Title = \n\nA line .\r\n\t\nlast")
    assert texts(records) == [" = Title = ", "A line .", "last"]
    assert [record.position for record in records] == ["#2", "#4", "#6"]


def test_lines_that_end_in_a_carriage_return_alone(read):
    assert texts(read("lines", "a.txt", "one\rtwo\r\rthree\r")) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ({"text": "t", "content": "c"}, "t"),
        ({"content": "c"}, "c"),
        ({"title": "T", "content": "c"}, "T\n\nc"),
        ({"title": None, "content": "c"}, "c"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_values_and_their_default_fields(read, name, value, text):
    content = json.dumps([value, "end"]) if name == "a.json" else f'{json.dumps(value)}\n\n"end"\n'
    assert texts(read("json", name, content)) == [text, "end"]


def test_json_named_field_is_taken_as_it_is(read):
    content = '{"title": "T", "content": "c", "text": "t"}'
    assert texts(read("json", "a.jsonl", content, "content")) == ["c"]


def test_json_lines_are_told_from_a_list_by_content(read):
    assert texts(read("json", "a.json", '\n{"text": "x"}\n{"text": "y"}\n')) == ["x", "y"]
    assert texts(read("json", "a.txt", '\n  [\n"x",\n"y"]')) == ["x", "y"]
    # In JSON Lines a line may be a list, and is no text then.
    assert isinstance(read("json", "a.jsonl", '["x"]\n')[0], BrokenRecord)


def test_json_places_are_lines_and_items(read):
    assert [r.position for r in read("json", "a.jsonl", '\n"x"\n"y"')] == ["#2", "#3"]
    assert [r.position for r in read("json", "a.json", '["x", "y"]')] == ["#1", "#2"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_json_lines_hold_nothing(read, name, content):
    if content:
        assert read("json", name, content) == []
    else:
        with pytest.raises(FileLeftOut, match="empty"):
            read("json", name, content)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"', "not a line of JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": 5}', "field 'text' is a number, not a string"),
        ('{"text": null}', "field 'text' is null"),
        ('{"content": "x", "title": ["y"]}', "field 'title' is a list"),
        ('{"body": "x", "head": "y"}', "no field 'text'; the fields are: body, head"),
        ("true", "not a boolean"),
        ("1" * 10_000, "not a line of JSON"),
    ],
)
def test_a_broken_json_line_is_named_and_spoils_no_other(read, line, message):
    first, broken, last = read("json", "a.jsonl", f'"first"\n{line}\n"last"\n')
    assert texts([first, last]) == ["first", "last"]
    assert broken.position == ":2"
    assert message in broken.message


def test_a_broken_item_of_a_json_list_is_named(read):
    _, broken = read("json", "a.json", '["x", {"text": 5}]')
    assert broken == BrokenRecord(" (item 2)", "field 'text' is a number, not a string", True)


def test_a_broken_json_list_names_its_line(read):
    with pytest.raises(FileLeftOut, match="line 3 is not JSON") as caught:
        read("json", "a.json", '["x",\n"y",\nz]')
    assert caught.value.broken


def test_an_item_of_a_json_list_that_is_too_long_is_not_waited_for(read, monkeypatch):
    monkeypatch.setattr(json_format, "READ_CHARACTERS", 10)
    monkeypatch.setattr(json_format, "MAX_DOCUMENT_BYTES", 40)
    assert len(read("json", "a.json", json.dumps(["a" * 30] * 5))) == 5
    with pytest.raises(FileLeftOut, match="line 3: an item of over") as caught:
        read("json", "b.json", '["a",\n\n"' + "b" * 100 + '"]')
    assert caught.value.broken


any_json = st.recursive(
    st.text() | st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    values=st.lists(any_json),
    indent=st.none() | st.integers(0, 3),
    num_characters=st.integers(1, 40),
)
def test_a_json_list_is_read_piece_by_piece_as_it_is_read_at_once(values, indent, num_characters):
    written = json.dumps(values, indent=indent, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_format, "READ_CHARACTERS", num_characters)
        stream = io.StringIO(written, newline="")
        items = list(json_format.JsonText(stream).items())
    assert items == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["a"', "line 1 is not JSON (Expecting ',' or ']')"),
        ('["a",\n\n"b', "line 3 is not JSON (Unterminated string"),
        ('["a"\n"b"]', "line 2 is not JSON (Expecting ',' or ']')"),
        ('["a",]', "line 1 is not JSON (Expecting value)"),
        ('[,"a"]', "line 1 is not JSON (Expecting value)"),
        ('["a"]\n\n["b"]', "line 3 is not JSON (Extra data after the list)"),
        ('["a", {"text": "b\nc"}]', "line 1 is not JSON (Invalid control character at)"),
        ("[" * 100_000, "not JSON (nested too deeply)"),
        ("[" + "1" * 10_000 + "]", "not JSON (Exceeds the limit"),
    ],
)
def test_what_is_broken_about_a_json_list_is_said(read, content, message):
    assert message in fault_of(read, "json", "a.json", content)


def test_items_before_the_fault_of_a_json_list_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('["one", "two", three]')
    records = records_of("json", path)
    assert [next(records).text, next(records).text] == ["one", "two"]
    with pytest.raises(FileLeftOut, match="broken"):
        next(records)


def test_a_fault_in_a_json_list_is_known_before_the_rest_is_read(monkeypatch):
    monkeypatch.setattr(json_format, "READ_CHARACTERS", 30)
    stream = io.StringIO('["a",\n "b" "c", "and some more"' + '"text"' * 10_000)
    with pytest.raises(FileLeftOut, match="line 2"):
        list(json_format.JsonText(stream).items())
    assert stream.tell() == 30


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_streams(tmp_path, name):
    path = tmp_path / name
    items = [json.dumps({"text": f"{number} {'word ' * 40}"}) for number in range(20_000)]
    path.write_text("\n".join(items) if name == "a.jsonl" else f"[{', '.join(items)}]")
    num_records, peak = peak_of("json", path)
    assert num_records == 20_000
    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("content", ['"one"\r\n\r\n"two"\r\n', '[\r\n"one",\r\n"two"]\r\n'])
def test_json_from_windows(read, content, encoding):
    assert texts(read("json", "a.json", content.encode(encoding))) == ["one", "two"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a", ",")])
def test_csv_rows_are_documents(read, name, delimiter, line_end, encoding):
    rows = [["id", "text"], ["1", 'Zwölf, "so\tto say"'], [], ["2", "two\n\nlines"], ["3", ""]]
    content = io.StringIO(newline="")
    writer = csv.writer(
        content, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL
    )
    writer.writerows(rows)
    assert read("csv", name, content.getvalue().encode(encoding)) == [
        RawDocument('Zwölf, "so\tto say"', "#1"),
        RawDocument("two\n\nlines", "#2"),
        RawDocument("", "#3"),
    ]


def test_tabs_are_told_by_the_ending_of_a_compressed_file_too(read):
    assert texts(read("csv", "a.TSV.gz", gzip.compress(b"id\ttext\n1\ta, b\n"))) == ["a, b"]


@pytest.mark.parametrize(
    ("header", "text_field", "text"),
    [
        ("text,content,title", None, "1"),
        ("other,content,title", None, "3\n\n2"),
        ("other,content,title", "content", "2"),
    ],
)
def test_csv_columns(read, header, text_field, text):
    assert texts(read("csv", "a.csv", f"{header}\n1,2,3\n", text_field)) == [text]


@pytest.mark.parametrize("content", ["\n\r\n\n", "text\n", "text"])
def test_csv_without_rows_holds_nothing(read, content):
    assert read("csv", "a.csv", content) == []


def test_a_missing_csv_column_lists_those_there(read):
    said = fault_of(read, "csv", "a.csv", 'id,"the body"\n1,x\n', "text")
    assert (
        "no column 'text'; the columns are: id, the body (set text_field, or exclude the file)"
        in said
    )


def test_a_header_that_is_no_csv_leaves_the_file_out(read):
    content = '"id" x,text\n1,2\n'
    with pytest.raises(FileLeftOut, match="its header is not CSV"):
        read("csv", "a.csv", content, quoting="minimal")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1", "a row of 1 fields below a header of 2"),
        ("1,2,3", "a row of 3 fields below a header of 2"),
        ('1,"a" b', "',' expected after '\"'"),
    ],
)
def test_a_broken_csv_row_is_named_by_its_line_and_spoils_no_other(read, row, message):
    first, broken, last = read("csv", "a.csv", f'id,text\n1,"two\nlines"\n\n{row}\n3,last\n')
    assert texts([first, last]) == ["two\nlines", "last"]
    assert [first.position, last.position] == ["#1", "#3"]
    assert broken.position == ":5"
    assert message in broken.message


def test_a_csv_quote_that_is_never_closed_is_named_where_it_opens(read):
    first, broken = read("csv", "a.csv", 'id,text\n1,"one, 1"\n2,"two\n3,three\n4,four\n')
    assert first.text == "one, 1"
    assert broken.position == ":3"
    assert "unexpected end of data), and with it all up to line 5; fix" in broken.message


def test_a_csv_field_may_be_long_but_not_endless(read, monkeypatch):
    long = "word " * 40_000  # the csv module's own limit is lower
    assert texts(read("csv", "a.csv", f"text\n{long}\n")) == [long]
    monkeypatch.setattr(csv_format, "MAX_FIELD_CHARACTERS", 1000)
    broken, last = read("csv", "a.csv", f"text\n{long}\nlast\n")
    assert "larger than field limit (1000)" in broken.message
    assert last.text == "last"


def test_an_endless_csv_line_is_never_held_whole_and_spoils_no_other(read, monkeypatch):
    monkeypatch.setattr(csv_format, "MAX_LINE_CHARACTERS", 1000)
    endless = ",".join(["word"] * 100_000)
    first, broken, last = read("csv", "a.csv", f"text,id\none,1\n{endless}\nlast,3\n")
    assert texts([first, last]) == ["one", "last"]
    assert (broken.position, last.position) == (":3", "#3")
    assert "a line of over 1,000 characters" in broken.message


def test_a_csv_row_that_does_not_decode_spoils_no_other(read):
    fine = b"1,fine\n" * 40_000
    content = b'id,text\n%s2,"bad\xff\nline"\n\xff,text\n3,last\n' % fine
    *_, broken, other_field, last = read("csv", "a.csv", content)
    assert broken == BrokenRecord(":40002", f"not utf-8; {ADVICE}")
    assert texts([other_field, last]) == ["text", "last"]


def test_utf16_csv_that_does_not_decode_is_read_up_to_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(("text\n" + "word\n" * 200_000).encode("utf-16") + b"\x41")
    records = records_of("csv", path)
    assert next(records).text == "word"
    with pytest.raises(FileLeftOut, match="undecodable"):
        list(records)


def test_csv_streams(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + f'"{"word " * 40}\n"\n' * 20_000)
    num_records, peak = peak_of("csv", path)
    assert num_records == 20_000
    assert peak < path.stat().st_size / 4


def as_parquet(table, **options):
    content = io.BytesIO()
    pq.write_table(table, content, **options)
    return content.getvalue()


def as_arrow(new_writer):
    def write(table):
        content = io.BytesIO()
        with new_writer(content, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        return content.getvalue()

    return write


TABLE_WRITERS = {
    "parquet": as_parquet,
    "Arrow file": as_arrow(pa.ipc.new_file),
    "Arrow stream": as_arrow(pa.ipc.new_stream),
}
every_table = pytest.mark.parametrize("write", TABLE_WRITERS.values(), ids=TABLE_WRITERS)


@every_table
@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_rows_of_tables_are_documents(read, write, kind):
    column = ["one", "zwölf", "", "one", "two\nlines"]
    table = pa.table({"id": [1, 2, 3, 4, 5], "text": pa.array(column).cast(kind)})
    records = read("parquet", "table", write(table))
    assert texts(records) == column
    assert [record.position for record in records] == ["#1", "#2", "#3", "#4", "#5"]


@every_table
@pytest.mark.parametrize(
    ("names", "text_field", "text"),
    [
        (["text", "content", "title"], None, "1"),
        (["other", "content", "title"], None, "3\n\n2"),
        (["other", "content", "title"], "content", "2"),
        (["other", "a.b", "title"], "a.b", "2"),
    ],
)
def test_columns_of_tables(read, write, names, text_field, text):
    table = pa.table([["1"], ["2"], ["3"]], names=names)
    assert texts(read("parquet", "table", write(table), text_field)) == [text]


@every_table
def test_a_null_is_a_broken_record_as_it_is_in_json(read, write):
    first, broken, last = read("parquet", "table", write(pa.table({"text": ["one", None, "two"]})))
    assert texts([first, last]) == ["one", "two"]
    assert broken == BrokenRecord(" (row 2)", "field 'text' is null, not a string")


@every_table
def test_a_missing_column_lists_those_there(read, write):
    content = write(pa.table({"id": [1], "body": ["x"]}))
    said = fault_of(read, "parquet", "table", content)
    assert (
        "no column 'text'; the columns are: id, body (set text_field, or exclude the file)" in said
    )


@every_table
@pytest.mark.parametrize(
    ("column", "kind"),
    [([1, 2], "int64"), ([0.5], "double"), ([["x"]], "list<"), ([b"x"], "binary")],
)
def test_a_column_that_holds_no_strings_is_named_with_its_type(read, write, column, kind):
    said = fault_of(read, "parquet", "table", write(pa.table({"text": column})))
    assert f"column 'text' holds {kind}" in said


@every_table
def test_a_table_without_rows_holds_nothing(read, write):
    assert read("parquet", "table", write(pa.table({"text": pa.array([], pa.string())}))) == []


@every_table
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_table_is_damaged(read, write, share):
    content = write(pa.table({"text": [f"{number} words" for number in range(100)]}))
    assert "damaged" in fault_of(read, "parquet", "table", content[: int(len(content) * share)])


def test_tables_with_damaged_content_are_told(read):
    text = "some words " * 20
    content = as_parquet(pa.table({"text": [text] * 50}), compression="none", use_dictionary=False)
    start = content.index(text.encode())
    for place in (start - 4, start - 12):  # the length of the text, and the header of the page
        damaged = content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :]
        assert "damaged" in fault_of(read, "parquet", "a.parquet", damaged)


@pytest.mark.parametrize("name", ["Arrow file", "Arrow stream"])
def test_arrow_offsets_that_lead_out_of_the_file_are_damage(read, name):
    content = TABLE_WRITERS[name](pa.table({"text": ["one", "three"]}))
    offsets = (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (8).to_bytes(4, "little")
    assert content.count(offsets) == 1
    damaged = content.replace(offsets, offsets[:4] + b"\xff\xff\xff\x7f" + offsets[8:])
    assert "damaged" in fault_of(read, "parquet", "table", damaged)


def test_an_arrow_length_beyond_all_memory_is_damage(read):
    table = pa.table({"text": ["one", "three"]})
    content = TABLE_WRITERS["Arrow stream"](table)
    stream = pa.BufferReader(content)
    pa.ipc.read_message(stream)  # the schema
    length = pa.ipc.read_message(stream).body.size.to_bytes(8, "little")
    place = content.rindex(length, 0, content.index(b"onethree") - 12)
    damaged = content[:place] + (1 << 60).to_bytes(8, "little") + content[place + 8 :]
    assert "more memory is asked for than there is" in fault_of(read, "parquet", "table", damaged)


def test_an_arrow_column_whose_name_is_not_utf8_is_damage(read):
    content = TABLE_WRITERS["Arrow stream"](pa.table({"text": ["one"]}))
    said = fault_of(read, "parquet", "table", content.replace(b"text", b"te\xfft"))
    assert "damaged" in said


def test_a_parquet_text_that_is_not_utf8_spoils_no_other(read):
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    content = as_parquet(pa.table({"text": ["one", "zwei", "three"]}), **options)
    assert content.count(b"zwei") == 1
    first, broken, last = read("parquet", "a.parquet", content.replace(b"zwei", b"zw\xffi"))
    assert texts([first, last]) == ["one", "three"]
    assert broken == BrokenRecord(" (row 2)", "its text is not UTF-8")


def test_parquet_streams_within_a_row_group(tmp_path):
    path = tmp_path / "a.parquet"
    column = [f"{number} {'word ' * 200}" for number in range(20_000)]
    pq.write_table(pa.table({"text": column}), path, compression="none", use_dictionary=False)
    assert pq.ParquetFile(path).num_row_groups == 1
    pool = pa.system_memory_pool()
    default = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    before = pool.max_memory()
    try:
        num_records, peak = peak_of("parquet", path)
    finally:
        pa.set_memory_pool(default)
    assert num_records == 20_000
    assert peak + pool.max_memory() - before < path.stat().st_size / 2


def test_pyarrow_is_imported_only_to_read_tables():
    code = "import sys, mlmtune.corpus.formats.parquet; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


PYTHON = '''
raise AssertionError("run")
words = ["old"]
words: list[str] = ["one", 'two' " and a half",
    """three"""]
table = {"a": "x", 2: "y"}
unordered = {"d", "b", "c", "a"}
computed = ["x", str(1), *words, 5]
mapping = {"a": 1, **table}
number = 5
warns = ["\\d"]
'''


def test_python_strings_are_read_and_nothing_is_run(read):
    assert texts(read("python", "a.py", PYTHON, "words")) == ["one", "two and a half", "three"]
    assert texts(read("python", "a.py", PYTHON, "warns")) == ["\\d"]


def test_python_mapping_names_documents_by_key(read):
    assert read("python", "a.py", PYTHON, "table") == [
        RawDocument("x", "#a"),
        RawDocument("y", "#2"),
    ]


def test_python_keys_that_are_repeated_name_distinct_documents(read):
    content = 'x = {"a": "1", "a (2)": "2", "a": "3", "a": "4", 1: "5", "1": "6"}'
    records = read("python", "a.py", content, "x")
    assert texts(records) == ["1", "2", "3", "4", "5", "6"]
    assert len({record.position for record in records}) == 6
    assert [record.position for record in records[:3]] == ["#a", "#a (2)", "#a (3)"]


def test_python_set_keeps_the_order_it_is_written_in(read):
    assert texts(read("python", "a.py", PYTHON, "unordered")) == ["d", "b", "c", "a"]


def test_python_elements_that_are_no_strings_are_named(read):
    good, *broken = read("python", "a.py", PYTHON, "computed")
    assert good.text == "x"
    assert [record.position for record in broken] == [":8"] * 3
    assert "type int" in broken[2].message
    assert len(read("python", "a.py", PYTHON, "mapping")) == 2


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (PYTHON, "nothing", "the names are: words, table"),
        (PYTHON, "number", "line 10: 'number' is not a list"),
        ("x = (", "x", "line 1: not Python"),
        ("x = " + "[" * 5000, "x", "not Python"),
    ],
)
def test_python_faults_leave_the_file_out_as_broken(read, content, name, message):
    with pytest.raises(FileLeftOut, match="broken") as caught:
        read("python", "a.py", content, name)
    assert message in caught.value.detail
    assert caught.value.broken


def test_the_topics_of_the_standard_library():
    import pydoc_data.topics

    records = list(records_of("python", pydoc_data.topics.__file__, "topics"))
    assert texts(records) == list(pydoc_data.topics.topics.values())


@pytest.mark.parametrize(
    ("format_", "content", "field"),
    [
        ("markdown", "word", None),
        ("text", "word", None),
        ("lines", "word\n", None),
        ("json", '"word"', None),
        ("json", '["word"]', None),
        ("csv", "text\nword\n", None),
        ("python", "x = ['word']", "x"),
    ],
)
@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
    ],
)
def test_every_format_of_text_may_be_compressed(read, format_, content, field, ending, compress):
    assert texts(read(format_, f"a{ending}", compress(content.encode()), field)) == ["word"]


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("content", [b"\x89PNG\r\n\0\0" + bytes(range(256)), b""])
def test_no_format_takes_what_it_is_not(read, format_, content):
    reason = "damaged" if format_ in ("parquet", "pdf", "docx", "pptx", "epub") else "binary"
    with pytest.raises(FileLeftOut, match=reason if content else "empty"):
        read(format_, "a.bin", content, "x" if format_ == "python" else None)


# How tables are parted and quoted.


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_delimiter_is_found(read, name, delimiter):
    content = f"id{delimiter}text\n1{delimiter}one word\n2{delimiter}two\n"
    assert texts(read("csv", name, content)) == ["one word", "two"]


def test_a_delimiter_is_told_by_excel_or_by_the_user(read):
    assert texts(read("csv", "a.csv", "sep=;\r\nid;text\r\n1;a, b\r\n")) == ["a, b"]
    content = "id!text\n1!one\n"
    assert texts(read("csv", "a.csv", content, delimiter="!")) == ["one"]
    (broken,) = read("csv", "a.csv", "sep=;\nid;text\nbad\n")
    assert broken.position == ":3"


UNQUOTED = 'id\ttext\n1\tfirst\n2\t"Well, he said.\n3\tthird\n4\tends in a quote"\n5\tlast\n'


def test_a_table_in_which_quotes_are_characters_keeps_its_rows(read):
    assert texts(read("csv", "a.tsv", UNQUOTED)) == [
        "first", '"Well, he said.', "third", 'ends in a quote"', "last",
    ]  # fmt: skip
    assert texts(read("csv", "a.tsv", 'id\ttext\n1\t"one" is a word\n')) == ['"one" is a word']


def test_quotes_enclose_fields_where_the_table_shows_it_or_the_user_says_so(read):
    content = 'id,text\n1,"one, two"\n2,"over\nlines, or so"\n3,"all"\n'
    assert texts(read("csv", "a.csv", content)) == ["one, two", "over\nlines, or so", "all"]
    assert texts(read("csv", "a.csv", 'id,text\n"1","one"\n"2","two"\n')) == ["one", "two"]
    assert texts(read("csv", "a.csv", 'text\n"one\ntwo"\n')) == ["one\ntwo"]
    assert len(read("csv", "a.tsv", UNQUOTED, quoting="minimal")) == 3
    assert texts(read("csv", "a.csv", 'text\n"one\n', quoting="none")) == ['"one']


def test_a_quoted_field_that_takes_whole_rows_is_an_error_where_it_is_unclear(read):
    # Beyond the sample; and in a table of which one line shows no order.
    far = "".join(f"{number}\tword word\n" for number in range(10_000))
    for start in (f"id\ttext\n{far}", "id\ttext\n0\ta\tb\n"):
        *_, broken, last = read("csv", "a.tsv", start + UNQUOTED.partition("\n")[2])
        assert "takes the 3 lines from here for one field" in broken.message
        assert "quoting: none" in broken.message
        assert last.text == "last"


@pytest.mark.parametrize(
    ("header", "message"), [("text,text", "two columns 'text'"), ("id,body", "no column 'text'")]
)
def test_a_column_that_is_missing_or_there_twice_is_a_fault_of_the_config(read, header, message):
    with pytest.raises(FileLeftOut, match=message) as caught:
        read("csv", "a.csv", f"{header}\n1,2\n")
    assert caught.value.is_misread


# Records inside objects.


@pytest.mark.parametrize(
    ("content", "field", "expected"),
    [
        ({"doc": {"body": "inner"}}, "doc.body", "inner"),
        ({"doc": {"body": "inner"}, "doc.body": "literal"}, "doc.body", "literal"),
        ({"a.b": {"c": "dotted"}}, "a.b.c", "dotted"),
        ({"a": {"b": {"c": "deep"}}}, "a.b.c", "deep"),
    ],
)
def test_a_field_reaches_into_objects(content, field, expected):
    assert record_of(Value(content, "#1", ":1"), field).text == expected


@pytest.mark.parametrize("content", [{"doc": "text"}, {"doc": {}}, {"doc": {"body": 5}}, {}])
def test_a_field_that_is_not_inside_is_named(content):
    broken = record_of(Value(content, "#1", ":1"), "doc.body")
    assert broken.lacks_text
    assert "'doc.body'" in broken.message


@every_table
def test_a_field_of_a_struct_is_read(read, write):
    content = write(pa.table({"doc": [{"body": "one", "n": 1}, {"body": "two", "n": 2}]}))
    assert texts(read("parquet", "table", content, "doc.body")) == ["one", "two"]
    with pytest.raises(FileLeftOut, match="column 'doc' holds struct"):
        read("parquet", "table", content, "doc")


ITEMS = [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("content", "settings", "expected"),
    [
        ({"version": 2, "data": ITEMS, "tags": ["a", "b"]}, {}, ["one", "two"]),
        ({"data": ["one", "two"], "empty": []}, {}, ["one", "two"]),
        ({"a": ITEMS, "b": [{"text": "three"}]}, {"record_path": "b"}, ["three"]),
        ({"a": {"docs": ITEMS}}, {"record_path": "a.docs"}, ["one", "two"]),
        ({"a.docs": ITEMS, "a": 1}, {"record_path": "a.docs"}, ["one", "two"]),
        ({"text": "whole", "parts": ITEMS}, {}, ["whole"]),
        ({"data": []}, {"record_path": "data"}, []),
    ],
)
def test_a_list_inside_an_object_is_found_or_named(read, content, settings, expected, indent):
    written = json.dumps(content, indent=indent)
    assert texts(read("json", "a.json", written, **settings)) == expected


@pytest.mark.parametrize(
    ("content", "record_path", "message"),
    [
        ({"a": ITEMS, "b": ITEMS}, None, "several lists: a, b; name one of them by record_path"),
        ({"a": ITEMS}, "b", "no list at 'b'; the keys are: a"),
        ({"a": 5}, "a", "no list at 'a'; it is a number"),
        (ITEMS, "a", "the file holds a list; remove it"),
    ],
)
def test_a_list_that_is_not_there_is_a_fault_of_the_config(read, content, record_path, message):
    with pytest.raises(FileLeftOut, match=message) as caught:
        read("json", "a.json", json.dumps(content), record_path=record_path)
    assert caught.value.is_misread


def test_an_object_that_is_broken_is_an_error_and_lines_are_still_lines(read):
    assert "line 2 is not JSON" in fault_of(read, "json", "a.json", '{"data": [\n{"text": }]}')
    assert "Extra data" in fault_of(read, "json", "a.json", '{\n"text": "a"}\n{')
    lines = read("json", "a.json", '{"text": "one"}\n{"text": "two"}\n')
    assert texts(lines) == ["one", "two"]
    assert texts(read("json", "a.json", '{"text": "one"}')) == ["one"]


def test_a_run_of_lines_is_a_document_of_sentences(read):
    content = "\n One.\nTwo. \r\n\r\n \t\n\nThree.\nFour.\nFive."
    records = read("sentences", "a.txt", content)
    assert texts(records) == [" One.\nTwo. ", "Three.\nFour.\nFive."]
    assert [record.position for record in records] == ["#2", "#7"]
    assert texts(read("sentences", "a.txt", "a\rb\r\rc\r")) == ["a\nb", "c"]


def test_a_document_of_sentences_that_never_ends_is_not_waited_for(read, monkeypatch):
    monkeypatch.setattr(sentences_format, "MAX_DOCUMENT_BYTES", 20)
    broken, last = read("sentences", "a.txt", "a sentence\n" * 9 + "\nlast\n")
    assert broken.position == ":1"
    assert "set blank lines between documents" in broken.message
    assert last.text == "last"
