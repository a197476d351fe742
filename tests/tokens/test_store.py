import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmtune.tokens.store import TokenStore, writing

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 999), st.booleans()), max_size=20), max_size=12
)


def append(writer, documents, first=0):
    """Append documents that are lists of (id, starts a word)."""
    tokens = [token for document in documents for token in document]
    numbers = range(first, first + len(documents))
    writer.append(
        ids=np.asarray([id_ for id_, _ in tokens], dtype=np.int64),
        word_starts=np.asarray([start for _, start in tokens], dtype=bool),
        lengths=np.asarray([len(document) for document in documents], dtype=np.int64),
        content_hashes=np.asarray([2**64 - 1 - n for n in numbers], dtype=np.uint64),
        given=np.asarray([n % 3 == 0 for n in numbers], dtype=bool),
        num_characters=np.asarray([7 * n for n in numbers], dtype=np.int64),
        names=[(f"{n}.txt", "a source") for n in numbers],
    )


@given(batches=st.lists(DOCUMENTS, max_size=4))
@settings(max_examples=30)
def test_what_is_appended_is_what_is_opened(batches):
    """Above all the packed bits, whose batches do not end on whole bytes."""
    documents = [document for batch in batches for document in batch]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with writing(path, vocabulary_size=1000) as writer:
            for number, batch in enumerate(batches):
                append(writer, batch, first=sum(map(len, batches[:number])))
            writer.finish({"documents": len(documents)})
        store = TokenStore.open(path)

        assert store.num_documents == len(documents)
        assert store.num_tokens == sum(map(len, documents))
        for number, document in enumerate(documents):
            start, end = store.offsets[number : number + 2]
            positions = np.arange(start, end)
            ids, starts = store.ids[start:end], store.starts_word(positions)
            assert list(zip(ids.tolist(), starts.tolist(), strict=True)) == document
        numbers = np.arange(len(documents))
        assert store.document_lengths().tolist() == [len(document) for document in documents]
        assert store.content_hashes.tolist() == [2**64 - 1 - n for n in numbers.tolist()]
        assert store.given.tolist() == (numbers % 3 == 0).tolist()
        assert store.num_characters.tolist() == (7 * numbers).tolist()
        assert store.funnel == {"documents": len(documents)}
        lines = (path / "documents.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [
            {"id": f"{n}.txt", "source": "a source"} for n in numbers
        ]


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"),
    [(30_522, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32), (250_002, np.int32)],
)
def test_ids_are_as_narrow_as_the_vocabulary_allows(tmp_path, vocabulary_size, dtype):
    path = tmp_path / "store"
    with writing(path, vocabulary_size) as writer:
        append(writer, [[(0, True), (vocabulary_size - 1, False)]])
        writer.finish({})
    store = TokenStore.open(path)
    assert store.ids.dtype == dtype
    assert store.ids.tolist() == [0, vocabulary_size - 1]
    assert (path / "ids.bin").stat().st_size == 2 * np.dtype(dtype).itemsize


def test_an_opened_store_is_mapped_and_cannot_be_changed(tmp_path):
    with writing(tmp_path / "store", 1000) as writer:
        append(writer, [[(5, True)]])
        writer.finish({})
    store = TokenStore.open(tmp_path / "store")
    assert isinstance(store.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.ids[0] = 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    path = tmp_path / "store"

    def fail():
        with writing(path, 1000) as writer:
            append(writer, [[(5, True)]])
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "store"
    with writing(path, 1000) as writer:
        append(writer, [[(5, True)]])
        assert not path.exists()
        writer.finish({})
        assert not path.exists()
    assert TokenStore.open(path).num_tokens == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_does_not_get_into_the_next_store(tmp_path):
    left = tmp_path / "store.partial"
    left.mkdir()
    (left / "ids.bin").write_bytes(b"\1\2\3\4")
    (left / "of_another_version.bin").write_bytes(b"\1")
    with writing(tmp_path / "store", 1000) as writer:
        append(writer, [[(5, True)]])
        writer.finish({})
    assert TokenStore.open(tmp_path / "store").ids.tolist() == [5]
    assert not left.exists()
    assert not (tmp_path / "store" / "of_another_version.bin").exists()


def test_every_file_is_flushed_to_the_disk_before_the_store_gets_its_name(tmp_path, monkeypatch):
    """Else a power cut leaves a store of the right name with empty files."""
    flushed = set()
    monkeypatch.setattr("os.fsync", lambda number: flushed.add(os.fstat(number).st_ino))
    with writing(tmp_path / "store", 1000) as writer:
        append(writer, [[(5, True)]])
        writer.finish({})
    assert flushed == {path.stat().st_ino for path in (tmp_path / "store").iterdir()}
