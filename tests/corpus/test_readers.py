import gzip
import json
import tracemalloc
from typing import get_args

import pytest

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import BrokenRecord, FileLeftOut
from mlmtune.corpus.readers import ENDINGS, READERS, RawDocument


@pytest.fixture
def read(tmp_path):
    def read_file(format_, name, content, text_field=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(READERS[format_](str(path), text_field))

    return read_file


def texts(records):
    assert all(isinstance(record, RawDocument) for record in records), records
    return [record.text for record in records]


def test_every_format_of_the_config_has_a_reader_and_endings():
    formats = set(get_args(SourceConfig.model_fields["format"].annotation))
    assert set(READERS) == formats
    assert set(ENDINGS) == formats


@pytest.mark.parametrize("format_", ["markdown", "text"])
def test_a_file_is_a_document(read, format_):
    assert read(format_, "a.txt", "one\n\ntwo\n") == [RawDocument("one\n\ntwo\n", "")]


def test_a_line_is_a_document_and_a_blank_one_is_not(read):
    records = read("lines", "a.txt", " \n = Title = \n\nA line .\r\n\t\nlast")
    assert texts(records) == [" = Title = ", "A line .", "last"]
    assert [record.place for record in records] == ["#2", "#4", "#6"]


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
    assert [r.place for r in read("json", "a.jsonl", '\n"x"\n"y"')] == ["#2", "#3"]
    assert [r.place for r in read("json", "a.json", '["x", "y"]')] == ["#1", "#2"]


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
    assert broken.place == ":2"
    assert message in broken.message


def test_a_broken_item_of_a_json_list_is_named(read):
    _, broken = read("json", "a.json", '["x", {"text": 5}]')
    assert broken == BrokenRecord(" (item 2)", "field 'text' is a number, not a string")


def test_a_broken_json_list_names_its_line(read):
    with pytest.raises(FileLeftOut, match="line 3 is not JSON") as caught:
        read("json", "a.json", '["x",\n"y",\nz]')
    assert caught.value.broken


def test_json_lines_stream(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(20_000):
            file.write(f'{{"text": "{number} {"word " * 40}"}}\n')
    tracemalloc.start()
    assert sum(1 for _ in READERS["json"](str(path), None)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 2


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


def test_python_set_keeps_the_order_it_is_written_in(read):
    assert texts(read("python", "a.py", PYTHON, "unordered")) == ["d", "b", "c", "a"]


def test_python_elements_that_are_no_strings_are_named(read):
    good, *broken = read("python", "a.py", PYTHON, "computed")
    assert good.text == "x"
    assert [record.place for record in broken] == [":8"] * 3
    assert "type int" in broken[2].message
    assert len(read("python", "a.py", PYTHON, "mapping")) == 2


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (PYTHON, "nothing", "the names are: words, table"),
        (PYTHON, "number", "line 10: 'number' is no list"),
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

    records = list(READERS["python"](pydoc_data.topics.__file__, "topics"))
    assert texts(records) == list(pydoc_data.topics.topics.values())


@pytest.mark.parametrize(
    ("format_", "content", "field"),
    [
        ("markdown", "word", None),
        ("text", "word", None),
        ("lines", "word\n", None),
        ("json", '"word"', None),
        ("json", '["word"]', None),
        ("python", "x = ['word']", "x"),
    ],
)
def test_every_format_may_be_compressed(read, format_, content, field):
    assert texts(read(format_, "a.gz", gzip.compress(content.encode()), field)) == ["word"]


@pytest.mark.parametrize("format_", sorted(READERS))
@pytest.mark.parametrize("content", [b"\x89PNG\r\n\0\0" + bytes(range(256)), b""])
def test_no_format_takes_what_is_no_text(read, format_, content):
    with pytest.raises(FileLeftOut, match=r"binary|empty"):
        read(format_, "a.bin", content, "x")
