import gzip
import json
import os
import re
import tempfile
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.console import Console
from mlmtune.corpus.funnel import remarks, with_endings_not_read
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.sources import all_sources
from mlmtune.corpus.splitting import validation_mask
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.printable import printable


class Reading:
    """What came of reading a corpus."""

    def __init__(self, config, listing=None):
        with tempfile.TemporaryDirectory() as cache:
            text = CorpusText(config, Console(is_quiet=True), cache, listing=listing)
            corpus = (text if listing else text.listed()).read()
            self.kept = list(corpus.documents())
        self.counts = corpus.funnel.to_json()
        self.texts = [document.text for document in self.kept]
        self.ids = [document.id for document in self.kept]
        self.left_out = self.counts["documents"]["left_out"]


@pytest.fixture
def folder(tmp_path):
    """Write files from a mapping of names to text; gives their folder."""

    def write(files, name="docs"):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for file, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (root / file).write_bytes(data)
        return str(root)

    return write


def source(path, format_="text", **fields):
    return SourceConfig(format=format_, path=path, **fields)


def read(*sources, **fields):
    return Reading(CorpusConfig(sources=list(sources), **fields))


def test_some_documents_are_read_by_their_numbers(folder):
    files = {f"{number}.txt": f"text number {number} of some" for number in range(6)}
    files["3.txt"] = files["1.txt"]  # left out, so that later documents have other numbers
    config = CorpusConfig(sources=[source(folder(files)), source(folder(files, "x"))])
    with tempfile.TemporaryDirectory() as cache:
        corpus = CorpusText(config, Console(is_quiet=True), cache).listed().read()
        every = list(corpus.documents())
        for numbers in ([], [0], [1, 3, 4], [*range(len(every))]):
            some = corpus.some_documents(np.asarray(numbers, dtype=np.int64))
            assert list(some) == [every[number] for number in numbers]


def test_documents_come_in_the_order_of_their_files(folder):
    reading = read(source(folder({"b.txt": "two", "a.txt": "one"}), name="docs"))
    assert [(d.text, d.id, d.source) for d in reading.kept] == [
        ("one", "a.txt", 0),
        ("two", "b.txt", 0),
    ]
    assert list(reading.counts["sources"]) == ["docs"]


def test_an_id_names_the_line(folder):
    path = folder({"a.jsonl": '"one"\n\n"two"\n'})
    assert read(source(path, "json")).ids == ["a.jsonl#1", "a.jsonl#3"]


def test_markdown_is_cleaned_and_text_is_not(folder):
    path = folder({"a.md": "# *One*", "a.txt": "# *Two*"})
    assert read(source(path, "markdown"), source(path, "text")).texts == ["One", "# *Two*"]


def test_everything_left_out_is_counted_and_files_are_named(folder):
    path = folder(
        {
            "a.txt": "long enough",
            "b.txt": "long \n enough",
            "c.txt": "short",
            "d.txt": " \n ",
            "e.txt": "",
            "f.txt": b"\x89PNG\r\n\0\0" * 9,
            "g.txt": "schöne Grüße aus Köln ".encode() * 9 + b"\xff",
        }
    )
    os.mkfifo(f"{path}/h.txt")
    reading = read(source(path, name="s"), min_characters=8)
    assert reading.counts["files"] == {
        "found": 8,
        "read": 4,
        "left_out": {"binary": 1, "empty": 1, "not_a_file": 1, "undecodable": 1},
        "endings_not_read": {},
        "encodings": {"utf-8": 4},
        "encodings_guessed": {},
    }
    assert reading.counts["documents"] == {
        "found": 4,
        "kept": 1,
        "left_out": {"duplicate": 1, "empty": 1, "too_short": 1},
        "languages": {},
    }
    assert reading.counts["characters"]["kept"] == len("long enough")
    assert reading.counts["characters"]["left_out"] == {
        "too_short": len("short"), "duplicate": len("long\n enough"),
    }  # fmt: skip
    named = {
        os.path.basename(entry["path"]): entry["reason"]
        for entry in reading.counts["files_left_out"]
    }
    assert named == {
        "e.txt": "empty",
        "f.txt": "binary",
        "g.txt": "undecodable",
        "h.txt": "not_a_file",
    }
    assert reading.counts["sources"]["s"]["documents"] == reading.counts["documents"]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    files=st.lists(
        st.binary(max_size=60) | st.text(max_size=60).map(str.encode), min_size=1, max_size=6
    ),
    min_characters=st.integers(0, 5),
    deduplicate=st.booleans(),
    max_documents=st.none() | st.integers(1, 3),
    format_=st.sampled_from(["text", "markdown", "lines", "json"]),
)
def test_the_funnel_adds_up_whatever_the_files_hold(
    tmp_path_factory, files, min_characters, deduplicate, max_documents, format_
):
    root = tmp_path_factory.mktemp("any")
    for number, content in enumerate(files):
        (root / f"{number}.x").write_bytes(content)
    config = CorpusConfig(
        sources=[source(str(root), format_, include=["*"], max_documents=max_documents)],
        min_characters=min_characters,
        deduplicate=deduplicate,
        on_error="skip",
    )
    try:
        reading = Reading(config)
    except DataError as error:
        problem = str(error)
    else:
        problem = ""
    if problem:
        assert "no document is left" in problem
        return
    counts = reading.counts
    assert counts["files"]["found"] == len(files)
    assert counts["documents"]["kept"] == len(reading.kept) > 0
    assert counts["characters"]["kept"] == sum(map(len, reading.texts))
    characters = counts["characters"]
    assert characters["found"] == characters["kept"] + sum(
        sum(characters[part].values()) for part in ("cleaned_away", "left_out")
    )
    if format_ in ("text", "markdown"):
        assert counts["documents"]["found"] == counts["files"]["read"]


def test_duplicates_differ_in_white_space_only_and_go_across_sources(folder):
    first = folder({"a.txt": "the same words", "b.txt": "other words"})
    second = folder({"c.txt": "the  same\nwords", "d.txt": "The same words"}, "more")
    assert read(source(first), source(second)).texts == [
        "the same words",
        "other words",
        "The same words",
    ]
    kept = read(source(first), source(second), deduplicate=False).kept
    assert len(kept) == 4
    assert kept[0].content_hash == kept[2].content_hash < 2**64


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_training_document_that_equals_a_validation_document_goes(folder, deduplicate):
    train = folder({"a.txt": "seen in both", "b.txt": "only here"})
    validation = folder({"x.txt": "seen in both", "y.txt": "seen  in both"}, "validation")
    reading = read(source(train), validation_sources=[source(validation)], deduplicate=deduplicate)
    assert [(document.id, document.source) for document in reading.kept] == [
        ("x.txt", 0),
        *([] if deduplicate else [("y.txt", 0)]),
        ("b.txt", 1),
    ]


def test_max_documents_takes_a_subset_in_order_and_counts_the_rest(folder):
    path = folder({"a.txt": "\n".join(f"line {n}" for n in range(700))})
    reading = read(source(path, "lines", max_documents=100))
    numbers = [int(text.removeprefix("line ")) for text in reading.texts]
    assert len(numbers) == 100
    assert numbers == sorted(numbers)
    assert abs(np.mean(numbers) - 350) < 100  # drawn from all, not the first
    assert reading.left_out == {"not_sampled": 600}
    assert reading.texts == read(source(path, "lines", max_documents=100)).texts
    assert reading.texts != read(source(path, "lines", max_documents=100), split_seed=1).texts
    assert read(source(path, "lines", max_documents=1000)).counts["documents"]["kept"] == 700


def test_every_document_is_as_likely_to_be_sampled(folder):
    path = folder({"a.txt": "\n".join(f"line {n}" for n in range(20))})
    drawn = [
        text
        for seed in range(200)
        for text in read(source(path, "lines", max_documents=5), split_seed=seed).texts
    ]
    counts = [drawn.count(f"line {n}") for n in range(20)]
    assert sum(counts) == 1000
    assert 25 < min(counts) <= max(counts) < 80  # 50 expected, standard deviation 6


def test_adding_documents_only_replaces_sampled_ones_by_new_ones(folder):
    lines = [f"line {n}" for n in range(100)]
    path = folder({"a.txt": "\n".join(lines)})
    before = set(read(source(path, "lines", max_documents=30)).texts)
    folder({"b.txt": "\n".join(f"new {n}" for n in range(50))})
    after = set(read(source(path, "lines", max_documents=30)).texts)
    assert {text for text in after if text in lines} <= before


def test_a_document_that_was_not_sampled_does_not_shut_out_its_equal(folder):
    path = folder({"a.txt": "\n".join(f"line {n}" for n in range(20))})
    reading = read(source(path, "lines", max_documents=1), source(path, "lines"))
    assert len(reading.texts) == 20


BROKEN = {
    "a.jsonl": '"one"\n{"text": 5}\n"two"\n',
    "b.json": '["x"',
    "c.json.gz": gzip.compress(os.urandom(900).hex().encode())[:-300],
    "d.jsonl.gz": b"no gzip",
}


@pytest.mark.parametrize(
    ("name", "place"),
    [("a.jsonl", "a.jsonl:2: field 'text' is a number"), ("b.json", "b.json: broken: line 1"),
     ("c.json.gz", "c.json.gz: truncated"), ("d.jsonl.gz", "d.jsonl.gz: damaged")],
)  # fmt: skip
def test_what_is_broken_stops_with_its_place(folder, name, place):
    with pytest.raises(DataError) as caught:
        read(source(folder({name: BROKEN[name]}), "json"))
    message = str(caught.value)
    assert place in message
    assert message.endswith("set corpus.on_error: skip to leave out what is broken")
    assert "\n" not in message


def test_what_is_broken_can_be_left_out_and_is_counted_and_named(folder):
    reading = read(source(folder(BROKEN), "json"), on_error="skip")
    assert reading.texts == ["one", "two"]
    assert reading.left_out == {"broken": 1}
    assert reading.counts["files"]["left_out"] == {"broken": 1, "damaged": 1, "truncated": 1}
    (record,) = reading.counts["records_broken"]
    assert record["place"].endswith("a.jsonl:2")


def test_a_gz_that_breaks_midway_gives_what_came_before(folder):
    lines = "".join(f"{n} {os.urandom(30).hex()}\n" for n in range(20_000))
    path = folder({"a.txt.gz": gzip.compress(lines.encode())[:-1000]})
    with pytest.raises(DataError, match=r"a\.txt\.gz \(after \d+ records\): truncated"):
        read(source(path, "lines"))
    reading = read(source(path, "lines"), on_error="skip")
    assert len(reading.texts) > 1000
    assert reading.left_out == {"broken": 1}
    assert reading.counts["files"]["read"] == 1


def test_a_file_that_vanishes_is_named_and_the_rest_is_read(folder, tmp_path):
    path = folder({"a.txt": "here", "b.txt": "gone"})
    config = CorpusConfig(sources=[source(path)])
    listing = scan(all_sources(config), tmp_path, str)
    os.unlink(f"{path}/b.txt")
    reading = Reading(config, listing)
    assert reading.texts == ["here"]
    assert reading.counts["files"]["left_out"] == {"vanished": 1}


def test_a_pipe_in_the_place_of_a_file_does_not_block(folder, tmp_path):
    path = folder({"a.txt": "here", "b.txt": "file"})
    config = CorpusConfig(sources=[source(path)])
    listing = scan(all_sources(config), tmp_path, str)
    os.unlink(f"{path}/b.txt")
    os.mkfifo(f"{path}/b.txt")
    assert Reading(config, listing).texts == ["here"]


@pytest.mark.parametrize(
    ("files", "fields", "reason", "remedy"),
    [
        (
            {"a.txt": "short", "b.txt": "brief"},
            {"min_characters": 9},
            "2 too_short",
            "corpus.min_characters",
        ),
        ({"a.txt": ""}, {}, "1 empty", "files that hold text"),
        ({"a.txt": b"\0" * 99}, {}, "1 binary", "include"),
    ],
)
def test_nothing_left_is_an_error_with_counts_and_a_remedy(folder, files, fields, reason, remedy):
    with pytest.raises(DataError) as caught:
        read(source(folder(files)), **fields)
    message = str(caught.value)
    assert "corpus.sources: no document is left to train on" in message
    assert f"{len(files)} files found" in message
    assert reason in message
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("format_", ["json", "lines"])
def test_an_empty_file_of_lines_is_left_out(folder, format_):
    path = folder({"a.jsonl": "", "b.jsonl": "\n\n", "c.jsonl": '"x"'})
    reading = read(source(path, format_, include=["*"]))
    assert reading.counts["files"]["left_out"] == {"empty": 2}


def test_validation_sources_without_a_document_are_an_error(folder):
    good, empty = folder({"a.txt": "words"}), folder({"a.txt": " "}, "empty")
    with pytest.raises(DataError, match="validation_sources: no document is left to validate on"):
        read(source(good), validation_sources=[source(empty)])


def test_all_of_the_training_text_in_validation_is_an_error(folder):
    path = folder({"a.txt": "words"})
    with pytest.raises(DataError, match=r"left to train on.*duplicate"):
        read(source(path), validation_sources=[source(path)])


def test_the_side_of_a_document_depends_on_its_content_only(folder):
    def sides(reading):
        hashes = np.array([kept.content_hash for kept in reading.kept], np.uint64)
        mask = validation_mask(hashes, np.zeros(len(hashes), int), config)
        return dict(zip(reading.texts, mask, strict=True))

    config = CorpusConfig(sources=[source("x")], validation_fraction=0.3)
    words = [f"{a} {b}" for a, b in product("abcdefgh", "stuvwxyz")]
    before = sides(read(source(folder({"z.txt": "\n".join(words)}), "lines")))
    more = [json.dumps(text) for text in (*reversed(words), *"0123456789")]
    after = sides(read(source(folder({"a.jsonl": "\n".join(more)}, "more"), "json")))
    assert {text: after[text] for text in words} == before


# What needs the text: near-duplicates, and text that must not be learned.


def words(numbers):
    return " ".join(f"w{number}" for number in numbers)


@pytest.fixture
def versions(folder):
    """Pages in two versions each that differ in a word, so that their sides differ, too."""
    pages = {}
    for number in range(30):
        draw = np.random.default_rng(number)
        page = draw.integers(0, 9999, size=200).tolist()
        pages[f"{number:02}-old.txt"] = words(page)
        pages[f"{number:02}-new.txt"] = words([*page, 0])
    return folder(pages)


def test_of_two_versions_of_a_page_one_stays_and_it_is_that_of_validation(versions):
    fields = {"validation_fraction": 0.3}
    before = read(source(versions), **fields)
    reading = read(source(versions), near_duplicates={}, **fields)
    assert len(before.kept) == 60
    assert len(reading.kept) == 30
    assert len({id_[:2] for id_ in reading.ids}) == 30
    assert reading.left_out == {"near_duplicate": 30}

    hashes = np.array([document.content_hash for document in before.kept], np.uint64)
    config = CorpusConfig(sources=[source("x")], **fields)
    mask = validation_mask(hashes, np.zeros(len(hashes), int), config)
    held_out = {id_ for id_, is_held_out in zip(before.ids, mask, strict=True) if is_held_out}
    # Of each page with a version on the validation side, that version (the first of two) stays.
    for page in {id_[:2] for id_ in held_out}:
        first = min((id_ for id_ in held_out if id_[:2] == page), key=before.ids.index)
        assert first in reading.ids
    pairs = reading.counts["near_duplicates"]
    assert len(pairs) == 10
    assert all(0.8 <= pair["similarity"] < 1 for pair in pairs)
    assert all(pair["document"][-10:-8] == pair["repeats"][-10:-8] for pair in pairs)


def test_given_validation_text_shuts_out_what_is_nearly_the_same(folder):
    page = list(range(200))
    train = folder({"a.txt": words([*page, 1]), "b.txt": words(range(500, 700))})
    validation = folder({"v.txt": words(page)}, "validation")
    reading = read(source(train), validation_sources=[source(validation)], near_duplicates={})
    assert reading.ids == ["v.txt", "b.txt"]


def test_documents_that_share_words_with_a_test_set_are_left_out_and_listed(folder):
    test_set = folder({"test.jsonl": json.dumps({"text": words(range(20))}) + '\n"x y"\n'}, "test")
    path = folder(
        {
            "a.txt": "before " + words(range(3, 18)) + " after",
            "b.txt": words(range(3, 14)) + " then others",
            "c.txt": words(range(100, 130)),
        }
    )
    fields = {"exclude_overlap_with": f"{test_set}/test.jsonl"}
    reading = read(source(path, name="docs"), **fields)
    assert reading.ids == ["b.txt", "c.txt"]
    assert reading.left_out == {"overlap": 1}
    (overlap,) = reading.counts["overlaps"]
    assert overlap == {"document": "docs: a.txt", "words": words(range(3, 16))}
    assert reading.counts["references_too_short"] == 1
    assert read(source(path), overlap_words=11, **fields).ids == ["c.txt"]


def test_a_test_set_without_text_is_an_error(folder):
    empty = folder({"test.jsonl": "\n"}, "test")
    path = folder({"a.txt": "words"})
    with pytest.raises(DataError, match="exclude_overlap_with: holds no text"):
        read(source(path), exclude_overlap_with=f"{empty}/test.jsonl")


PROSE = {
    "en": "The update is downloaded in the background and installed when the computer is next "
    "started. If you work on something that must not be interrupted, you can choose another time, "
    "but do not wait for more than a week.",
    "de": "Die Aktualisierung wird im Hintergrund heruntergeladen und beim nächsten Start des "
    "Rechners eingespielt. Wer an etwas arbeitet, das nicht unterbrochen werden darf, kann einen "
    "anderen Zeitpunkt wählen, sollte aber nicht länger als eine Woche warten.",
    "zh": "更新会在后台下载，并在计算机下次启动时安装。如果您正在进行不能中断的工作，"
    "可以选择其他时间，但请不要等待超过一个星期。",
}


def test_documents_in_other_languages_are_left_out_counted_and_named(folder):
    files = {f"{language}.txt": text for language, text in PROSE.items()}
    path = folder({**files, "short.txt": "Sieben kurze Wörter"})
    reading = read(source(path, name="docs"), languages=["en", "zh"])
    assert reading.ids == ["en.txt", "short.txt", "zh.txt"]
    assert reading.left_out == {"other_language": 1}
    assert reading.counts["characters"]["left_out"] == {"other_language": len(PROSE["de"])}
    counted = {"en": 1, "de": 1, "zh": 1, "undetermined": 1}
    assert reading.counts["documents"]["languages"] == counted
    assert reading.counts["other_languages"] == [{"document": "docs: de.txt", "language": "de"}]
    (line,) = remarks(reading.counts)
    assert line == (
        "languages that were recognised, by number of documents: de 1, en 1, undetermined 1, zh 1"
    )
    with pytest.raises(DataError, match=r"\(1 other_language\); add the languages"):
        read(source(f"{path}/de.txt"), languages=["en"])


def test_documents_of_another_language_do_not_count_towards_the_most(folder):
    files = {f"{number}.txt": f"{PROSE['de']} {number}" for number in range(9)}
    path = folder({**files, "en.txt": PROSE["en"]})
    assert read(source(path, max_documents=1), languages=["en"]).ids == ["en.txt"]


def test_several_processes_give_what_one_does(versions, monkeypatch):
    fields = {
        "near_duplicates": {},
        "exclude_overlap_with": f"{versions}/07-new.txt",
        "languages": ["en", "ceb"],
        "cleaning": {"mojibake": "repair"},
    }
    alone = read(source(versions), **fields)
    monkeypatch.setattr("mlmtune.corpus.corpus.SMALL_BYTES", 0)
    monkeypatch.setattr("mlmtune.corpus.engine.num_processors", lambda: 2)
    monkeypatch.setattr("mlmtune.corpus.dividing.PART_FILES", 12)
    monkeypatch.setattr("mlmtune.corpus.corpus.DOCUMENTS_AT_ONCE", 5)
    together = read(source(versions), **fields)
    assert together.kept == alone.kept
    assert together.counts == alone.counts
    assert alone.left_out["overlap"] == 2


def test_encodings_are_counted_and_guesses_named(folder):
    path = folder({"a.txt": "grüße", "b.txt": "Žluťoučký kůň".encode("cp1250"), "c.bin": "x"})
    (source_counts,) = read(source(path)).counts["sources"].values()
    files = source_counts["files"]
    assert files["encodings"] == {"cp1250": 1, "utf-8": 1}
    assert files["encodings_guessed"] == {"cp1250": 1}
    assert files["endings_not_read"] == {".bin": 1}
    assert read(source(path)).counts["encodings_guessed"] == [
        {"path": f"{path}/b.txt", "encoding": "cp1250"}
    ]
    given = read(source(folder({"b.txt": "кот".encode("koi8_r")}, "one"), encoding="koi8_r"))
    assert given.texts == ["кот"]
    assert given.counts["files"]["encodings_guessed"] == {}


def test_a_field_that_some_records_lack_is_left_out_where_it_may_be(folder):
    content = '{"body": "x"}\n{"text": "y"}\n'
    path = folder({"a.jsonl": content, "b.json": '{"id": 1}'})
    assert read(source(path, "json"), on_error="skip").texts == ["y"]
    with pytest.raises(DataError, match="on_error: skip"):
        read(source(path, "json"))


@pytest.mark.parametrize(
    ("record", "fault"),
    [('{"text": 5}', "field 'text' is a number, not a string"),
     ('{"body": "x"}', "no field 'text'; the fields are: body")],
)  # fmt: skip
def test_a_source_without_text_in_the_field_is_refused(folder, record, fault):
    path = folder({"a.jsonl": record})
    said = re.escape(f"{fault}; no record of the source has a text there (set text_field)")
    with pytest.raises(DataError, match=said):
        read(source(path, "json"), on_error="skip")


def test_what_a_user_should_know_is_said_in_a_line_each(folder):
    path = folder({"a.txt": "Žluťoučký kůň".encode("cp1250"), "b.html": "x", "c.pdf": "x"})
    blank = folder({"a.csv": "text,body\n,x\n,y\n"}, "blank")
    counts = read(source(path, name="docs"), source(blank, "csv", name="table")).counts
    assert list(remarks(counts)) == [
        "no document of table is in the corpus (empty 2)",
        "not read, other endings: .html 1, .pdf 1",
        "encodings that were guessed, by number of files: cp1250 1 (set encoding on the source if "
        "a guess is wrong)",
    ]
    later = with_endings_not_read(counts, {"docs": Counter({".doc": 3})})
    assert "not read, other endings: .doc 3" in list(remarks(later))


def test_names_that_would_disturb_a_terminal_or_a_line_are_escaped(folder):
    names = ["red\x1b[31m", "two\nlines", "\u202etxt.exe", "bell\a", "latin\udce9"]
    files = {
        f"{name}{number}.txt": text
        for name in names
        for number, text in enumerate((f"the text of {name!r} alone", "the same text", "", "\0"))
    }
    path = folder({**files, **{f"a.{name}": "" for name in names}})
    for name in names:
        os.symlink("/nowhere", f"{path}/{name}-link.txt")
    reading = read(source(path, name="a\x1bname"), on_error="skip")
    assert len(reading.kept) == len(names) + 1
    shown = json.dumps([reading.counts, reading.ids], ensure_ascii=False)
    assert shown == printable(shown)
    assert all(escape in shown for escape in (r"\\x1b", r"\\x0a", r"\\u202e", r"\\x07", r"\\xe9"))
    with pytest.raises(DataError) as raised:
        read(source(path, format_="parquet"))
    assert str(raised.value) == printable(str(raised.value))
