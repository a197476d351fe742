"""Marks are found once, beside the store, and belong to its tokens."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from damages import DAMAGES
from filelock import FileLock

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, ResourceError
from mlmtune.integrity import digest, sealed, unsealed
from mlmtune.tokens import tokenization
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.marks import Marker, TokenizedText, open_marks
from mlmtune.tokens.opening import open_store

TEXTS = ["the storage account and the key", "a", "", "no such thing", "the cluster the node"] * 3


@dataclass(frozen=True)
class WatchedText(CorpusText):
    """A text that notes how often it is read."""

    readings: list[str] = field(default_factory=list)

    def read(self):
        self.readings.append("read")
        return super().read()


class Text:
    """A corpus of short files, and its store."""

    def __init__(self, folder, tokenizer, console):
        self.folder = folder
        folder.mkdir()
        for number, text in enumerate(TEXTS):
            (folder / f"{number:02}.txt").write_text(f"{text} {number}" if text else "", "utf-8")
        config = CorpusConfig(sources=[SourceConfig(format="text", path=str(folder))])
        self.bound = WatchedText.of(config, TokenizationConfig(), console)
        self.tokenizer = tokenizer
        self.backend = plain_backend(tokenizer)

    @property
    def readings(self):
        return self.bound.readings

    def store(self):
        return open_store(self.bound.listed(), self.tokenizer)

    def marks(self, marker, store, is_here=True):
        text = self.bound.listed() if is_here else self.bound
        return open_marks(marker, TokenizedText(store, text, self.backend))


@pytest.fixture
def text(tmp_path, tokenizer, console):
    return Text(tmp_path / "text", tokenizer, console)


def the_marker(made_by="rule 1", word="the", name="the"):
    """Marks the tokens that spell a word, where the text has it; elsewhere words as they are."""

    def mark(document, pieces, own):
        spelled = [
            document.text[start:end]
            for offsets in pieces
            for start, end in zip(*offsets, strict=True)
        ]
        return np.asarray([token == word for token in spelled], dtype=bool)

    def concerns(document):
        return word in document.text

    return Marker(name, made_by, "install the rule", "marking", concerns, mark)


def expected(store, tokenizer, word="the"):
    """(n,) bool, document by document."""
    found = []
    for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
        ids, own = store.tokens_at(np.arange(begin, end))
        is_word = ids == tokenizer.convert_tokens_to_ids(word)
        found.append(is_word if is_word.any() else own)
    return np.concatenate(found)


@pytest.mark.parametrize("num_characters", [1, 40, 10**6])
def test_marks_are_those_of_the_rule_in_any_shards(text, tokenizer, monkeypatch, num_characters):
    monkeypatch.setattr(tokenization, "SHARD_CHARACTERS", num_characters)
    monkeypatch.setattr(tokenization, "BATCH_DOCUMENTS", 2)
    store = text.store()
    marks = text.marks(the_marker(), store)
    wanted = expected(store, tokenizer)
    assert marks.positions(store).tolist() == np.flatnonzero(wanted).tolist()
    assert marks.num_by_source == (int(wanted.sum()),)
    marked = store.with_word_starts(marks.shards, marks.num_by_source)
    ids, starts = marked.tokens_at(np.arange(store.num_tokens))
    assert np.array_equal(starts, wanted)
    assert np.array_equal(ids, store.tokens_at(np.arange(store.num_tokens))[0])
    assert marked.sources[0].num_words == wanted.sum()


def test_they_are_found_once_and_the_store_stays_as_it_is(text):
    store = text.store()
    before = {path: path.stat().st_mtime_ns for path in store.directory.rglob("*")}
    first = text.marks(the_marker(), store)
    again = text.marks(the_marker(), store)
    assert first.fingerprint == again.fingerprint
    assert len(text.readings) == 2
    after = {path: path.stat().st_mtime_ns for path in before if path != store.directory}
    assert after == {path: time for path, time in before.items() if path != store.directory}
    assert text.store().fingerprint == store.fingerprint


def test_who_waits_for_another_process_says_so_and_takes_its_marks(text, console):
    store = text.store()
    others = Text(text.folder.with_name("others"), text.tokenizer, console)
    lock = FileLock(store.directory / "the.lock")
    lock.acquire()
    lines = []

    def find_marks_elsewhere(line):
        lines.append(line)
        lock.release()
        elsewhere = replace(others.bound.listed(), console=Console(is_quiet=True))
        open_marks(the_marker(), TokenizedText(store, elsewhere, others.backend))

    console.say = find_marks_elsewhere
    text.marks(the_marker(), store)
    assert lines == [f"waiting for another process that finds {store.directory / 'the'}"]
    assert len(text.readings) == 1


def test_other_rules_have_marks_of_their_own(text):
    store = text.store()
    found = {word: text.marks(the_marker(word=word, name=word), store) for word in ("the", "key")}
    assert found["the"].positions(store).tolist() != found["key"].positions(store).tolist()
    assert {path.name for path in store.directory.iterdir()} >= {"the", "key"}


def test_another_version_of_the_rule_marks_again(text):
    store = text.store()
    text.marks(the_marker("rule 1"), store)
    newer = text.marks(the_marker("rule 2", word="key"), store)
    assert len(text.readings) == 3
    assert "rule 2" in newer.fingerprint


def test_a_machine_with_the_store_alone_takes_what_is_there(text):
    store = text.store()
    found = text.marks(the_marker("rule 1"), store)
    for marker, is_here in ((the_marker("rule 2"), False), (the_marker(None), False),
                            (the_marker(None), True)):  # fmt: skip
        taken = text.marks(marker, store, is_here)
        assert taken.fingerprint == found.fingerprint


def test_what_is_not_there_and_cannot_be_found_is_said(text):
    store = text.store()
    with pytest.raises(ConfigError, match=r"has no marks 'the'.*`mlmtune prepare`"):
        text.marks(the_marker(), store, is_here=False)
    with pytest.raises(ConfigError, match="install the rule"):
        text.marks(the_marker(None), store)


def test_an_interrupted_search_goes_on_where_it_stopped(text, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenization, "SHARD_CHARACTERS", 40)
    store = text.store()
    assert len(store.shards) > 3
    num_done = sum(store.num_documents_of_shards[:2])
    *done, third_shard = store.document_ids(range(num_done + 1))

    def stop(document):
        if document.id == third_shard:
            raise KeyboardInterrupt
        return marker.concerns(document)

    marker, read = the_marker(), []
    with pytest.raises(KeyboardInterrupt):
        text.marks(replace(marker, concerns=stop), store)
    assert not (store.directory / "the").exists()

    def note(document):
        read.append(document.id)
        return marker.concerns(document)

    marks = text.marks(replace(marker, concerns=note), store)
    assert read == store.document_ids(range(num_done, store.num_documents))
    assert done
    wanted = np.flatnonzero(expected(store, tokenizer))
    assert marks.positions(store).tolist() == wanted.tolist()
    assert marks.num_by_source == (len(wanted),)
    names = {path.name for path in (store.directory / "the").iterdir()}
    assert names == {"marks.json", *(f"shard-{n:05}.bin" for n in range(len(store.shards)))}


@pytest.mark.parametrize("damage", ["another rule", "another hash"])
def test_what_another_rule_or_a_fault_left_unfinished_is_not_gone_on_with(text, tokenizer, damage):
    store = text.store()
    text.marks(the_marker("rule 0"), store)
    partial = store.directory / ".writing-the"
    (store.directory / "the").rename(partial)
    made_of = unsealed((partial / "marks.json").read_bytes())["made_of"]
    content = b"\xff" * -(-store.num_tokens // 8)
    entry = {"bits": digest(content), "num_by_source": [7]}
    if damage == "another hash":
        made_of["made_by"] = "rule 1"
        entry["bits"] = digest(b"other content")
    (partial / "made_of.json").write_text(json.dumps(made_of))
    (partial / "shard-00000.json").write_bytes(sealed(entry))
    (partial / "shard-00000.bin").write_bytes(content)
    marks = text.marks(the_marker("rule 1"), store)
    wanted = np.flatnonzero(expected(store, tokenizer))
    assert marks.positions(store).tolist() == wanted.tolist()


def test_text_that_is_no_longer_the_stores_is_refused(text):
    store = text.store()
    (text.folder / "00.txt").write_text("the storage account", "utf-8")
    with pytest.raises(DataError, match="the text has changed since it was tokenized"):
        text.marks(the_marker(), store)


def test_a_document_that_is_gone_is_noticed(text):
    store = text.store()
    (text.folder / "14.txt").unlink()
    with pytest.raises(DataError, match="the text has changed since it was tokenized"):
        text.marks(the_marker(), store)


@pytest.mark.parametrize("name", ["shard-00000.bin", "marks.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_marks_are_found_again_where_the_text_is_and_else_refused(
    text, tokenizer, name, damage
):
    store = text.store()
    text.marks(the_marker(), store)
    damage(store.directory / "the" / name)
    what = "missing" if damage is Path.unlink else "damaged"
    if name == "shard-00000.bin" or damage is not Path.unlink:
        with pytest.raises(DataError, match=rf"{name}: {what}; run `mlmtune prepare`"):
            text.marks(the_marker(), store, is_here=False)
    marks = text.marks(the_marker(), store)
    wanted = np.flatnonzero(expected(store, tokenizer))
    assert marks.positions(store).tolist() == wanted.tolist()


def test_a_store_that_cannot_be_written_is_said(text, monkeypatch):
    store = text.store()
    (store.directory / ".writing-the").write_text("a file where a folder should be", "utf-8")
    with pytest.raises(ResourceError, match=r"\.writing-the.*cannot be written.*cache_dir"):
        text.marks(the_marker(), store)
