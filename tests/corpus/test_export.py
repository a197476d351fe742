import json
import os
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.console import Console
from mlmtune.corpus import export as export_module
from mlmtune.corpus import parts
from mlmtune.corpus.export import check_target, export
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    (tmp_path / "in.txt").write_text("".join(f"líne {n}\n" for n in range(50)), encoding="utf-8")

    def make(**settings):
        source = SourceConfig(format="lines", path=str(tmp_path / "in.txt"), name="lines")
        config = CorpusConfig(sources=[source], validation_fraction=0.3, **settings)
        text = CorpusText(config, Console(is_quiet=True), str(tmp_path))
        return text.listed().read(), config

    return make


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_all_that_is_kept_is_written_in_order(read, tmp_path, ending, monkeypatch):
    monkeypatch.setattr(parts, "ROW_GROUP_DOCUMENTS", 7)
    corpus, config = read()
    path = tmp_path / f"out{ending}"
    assert export(corpus, config, path) == 50
    rows = rows_of(path)
    assert [row["text"] for row in rows] == [f"líne {n}" for n in range(50)]
    assert rows[3] | {"split": ""} == {
        "id": "in.txt#4", "source": "lines", "split": "", "text": "líne 3",
    }  # fmt: skip
    assert {row["split"] for row in rows} == {"train", "validation"}
    assert 5 < sum(row["split"] == "validation" for row in rows) < 30


def test_what_was_exported_reads_back_as_the_same_corpus(read, tmp_path):
    corpus, config = read()
    path = tmp_path / "out.jsonl"
    export(corpus, config, path)
    again = CorpusConfig(sources=[SourceConfig(format="json", path=str(path))])
    second = CorpusText(again, Console(is_quiet=True), str(tmp_path)).listed()
    assert [d.content_hash for d in second.read().documents()] == [
        d.content_hash for d in corpus.documents()
    ]


def test_a_split_by_chunk_names_no_side(read, tmp_path):
    corpus, config = read(split_by="chunk")
    export(corpus, config, tmp_path / "out.jsonl")
    assert {row["split"] for row in rows_of(tmp_path / "out.jsonl")} == {None}


def test_an_export_that_fails_leaves_the_old_file(read, tmp_path, monkeypatch):
    corpus, config = read()
    path = tmp_path / "out.jsonl"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(export_module, "json", SimpleNamespace(dumps=lambda *_, **__: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        export(corpus, config, path)
    assert path.read_text(encoding="utf-8") == "old"
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_pipe_is_written_and_stays_a_pipe(read, tmp_path, ending):
    corpus, config = read()
    pipe, copy = tmp_path / f"pipe{ending}", tmp_path / f"copy{ending}"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)  # also to write, so that opening it does not block
    assert export(corpus, config, pipe) == 50
    copy.write_bytes(os.read(reader, 1 << 16))
    os.close(reader)
    assert len(rows_of(copy)) == 50
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["out", "out.json", "out.txt"])
def test_a_name_that_says_no_format_is_refused(name):
    with pytest.raises(ConfigError, match=r"\.jsonl or \.parquet"):
        check_target(Path(name))
