import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from damages import DAMAGES, flip_a_bit
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmtune.errors import DataError
from mlmtune.integrity import digest, file_digest, sealed, unsealed
from mlmtune.tokens import store_format
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import DocumentArrays, is_finished
from mlmtune.tokens.store_writer import TokenizedDocuments, UnfinishedStore
from mlmtune.tokens.unknown import UnknownText

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 999), st.booleans()), max_size=20), max_size=12
)
SOURCES = (("given", True), ("docs", False))
UNKNOWN = 3


def begun(path, vocabulary_size=1000, **made_of):
    store = UnfinishedStore(path, vocabulary_size, SOURCES, {"fingerprint": "f", **made_of})
    store.begin()
    return store


def write_shard(store, number, *batches, first=0):
    """Write a shard of batches of documents, and return its entry in the manifest."""
    with store.write_shard(number) as writer:
        for batch in batches:
            writer.append(tokenized(batch, first))
            first += len(batch)
    return writer.entry


def tokenized(documents, first=0):
    """The batch of documents that are lists of (id, starts a word)."""
    tokens = [token for document in documents for token in document]
    numbers = range(first, first + len(documents))
    unknown = unknown_of(documents)
    arrays = DocumentArrays(
        lengths=np.asarray([len(document) for document in documents], dtype=np.int64),
        content_hashes=np.asarray([2**64 - 1 - n for n in numbers], dtype=np.uint64),
        num_characters=np.asarray([7 * n for n in numbers], dtype=np.int64),
        num_bytes=np.asarray([8 * n for n in numbers], dtype=np.int64),
        num_text_words=np.asarray([2 * n for n in numbers], dtype=np.int64),
        num_unknown_tokens=unknown.num_tokens,
        num_unknown_bytes=unknown.num_bytes,
        num_unknown_words=unknown.num_words,
        title_lengths=np.asarray([min(n, len(d)) for n, d in zip(numbers, documents, strict=True)]),
        sources=np.asarray([n % 3 != 0 for n in numbers], dtype=np.uint16),
    )
    return TokenizedDocuments(
        ids=np.asarray([id_ for id_, _ in tokens], dtype=np.int64),
        word_starts=np.asarray([start for _, start in tokens], dtype=bool),
        arrays=arrays,
        document_ids=[f"{n}.txt" for n in numbers],
        unknown_characters=unknown.characters,
    )


def unknown_of(documents):
    """Each unknown token stands for a word of three bytes, which is one character."""
    counts = np.asarray([sum(id_ == UNKNOWN for id_, _ in d) for d in documents], dtype=np.int64)
    return UnknownText(counts, 3 * counts, counts, Counter({"\u1780": int(counts.sum())}))


def write(path, documents, **arguments):
    store = begun(path, **arguments)
    store.finish([write_shard(store, 0, documents)], {})
    return TokenStore.open(path)


@given(shards=st.lists(st.lists(DOCUMENTS, min_size=1, max_size=3), max_size=4), data=st.data())
@settings(max_examples=60)
def test_what_is_written_is_what_is_opened_in_whatever_order_shards_come(shards, data):
    """Above all the packed bits, whose batches and shards do not end on whole bytes."""
    documents = [document for shard in shards for batch in shard for document in batch]
    firsts = np.cumsum([0, *(sum(map(len, shard)) for shard in shards)]).tolist()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        unfinished = begun(path)
        entries = {
            number: write_shard(unfinished, number, *shards[number], first=firsts[number])
            for number in data.draw(st.permutations(range(len(shards))))
        }
        in_order = [entries[number] for number in range(len(shards))]
        unfinished.finish(in_order, {"documents": len(documents)})
        store = TokenStore.open(path)

        assert store.num_documents == len(documents)
        assert store.num_tokens == sum(map(len, documents))
        for number, document in enumerate(documents):
            start, end = store.offsets[number : number + 2]
            ids, starts = store.tokens_at(np.arange(start, end))
            assert list(zip(ids.tolist(), starts.tolist(), strict=True)) == document
        numbers = np.arange(len(documents))
        assert store.documents.lengths.tolist() == [len(document) for document in documents]
        assert store.documents.content_hashes.tolist() == [2**64 - 1 - n for n in numbers.tolist()]
        assert store.documents.num_characters.tolist() == (7 * numbers).tolist()
        assert store.documents.num_bytes.tolist() == (8 * numbers).tolist()
        assert store.documents.num_text_words.tolist() == (2 * numbers).tolist()
        unknown = unknown_of(documents)
        assert store.documents.num_unknown_tokens.tolist() == unknown.num_tokens.tolist()
        assert store.documents.num_unknown_bytes.tolist() == unknown.num_bytes.tolist()
        assert store.documents.num_unknown_words.tolist() == unknown.num_words.tolist()
        assert sum(store.unknown_characters.values()) == unknown.num_tokens.sum()
        assert store.funnel == {"documents": len(documents)}
        wanted = numbers[::-2].tolist()
        assert store.document_ids(wanted) == [f"{n}.txt" for n in wanted]

        for number, source in enumerate(store.sources):
            tokens = [
                id_
                for n, document in enumerate(documents)
                for id_, _ in document
                if (n % 3 != 0) == number
            ]
            assert source.num_tokens == len(tokens)
            assert source.num_unknown_tokens == tokens.count(UNKNOWN)


def test_positions_of_several_shards_come_in_any_order(tmp_path):
    unfinished = begun(tmp_path / "store")
    shards = [
        write_shard(unfinished, n, [[(10 * n, True), (10 * n + 1, False)]], first=n)
        for n in range(5)
    ]
    unfinished.finish(shards, {})
    store = TokenStore.open(tmp_path / "store")
    assert len(store.shards) == 5
    ids, starts = store.tokens_at(np.asarray([9, 0, 3, 8]))
    assert ids.tolist() == [41, 0, 11, 40]
    assert starts.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype"),
    [(30_522, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32), (250_002, np.int32)],
)
def test_ids_are_as_narrow_as_the_vocabulary_allows(tmp_path, vocabulary_size, dtype):
    path = tmp_path / "store"
    store = write(
        path, [[(0, True), (vocabulary_size - 1, False)]], vocabulary_size=vocabulary_size
    )
    (shard,) = store.shards
    assert shard.ids.dtype == dtype
    assert shard.ids.tolist() == [0, vocabulary_size - 1]
    assert (path / "shard-00000" / "ids.bin").stat().st_size == 2 * np.dtype(dtype).itemsize


def test_an_opened_store_is_mapped_and_cannot_be_changed(tmp_path):
    (shard,) = write(tmp_path / "store", [[(5, True)]]).shards
    assert isinstance(shard.ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.ids[0] = 1


def test_a_store_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "store"
    unfinished = begun(path)
    entry = write_shard(unfinished, 0, [[(5, True)]])
    assert not is_finished(path)
    unfinished.finish([entry], {})
    assert TokenStore.open(path).num_tokens == 1
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(entry.name for entry in path.iterdir()) == ["shard-00000", "store.json"]


def test_finished_shards_of_an_interrupted_store_stay_and_nothing_else(tmp_path):
    first = begun(tmp_path / "store")
    entries = [write_shard(first, n, [[(n, True), (7, False)]], first=n) for n in (0, 2)]
    half = tmp_path / ".writing-store" / ".writing-shard-00001.0a"
    half.mkdir()
    (half / "ids.bin").write_bytes(b"killed in here")
    flip_a_bit(tmp_path / ".writing-store" / "shard-00002" / "ids.bin")

    second = begun(tmp_path / "store")
    found = [second.finished_shard(number) for number in range(3)]
    assert found == [entries[0], None, None]
    others = [write_shard(second, n, [[(n, True), (7, False)]], first=n) for n in (1, 2)]
    assert others[1] == entries[1]
    write_shard(second, 3, [[(9, True)]])  # of another plan
    second.finish([entries[0], *others], {})
    store = TokenStore.open(tmp_path / "store")
    assert store.tokens_at(np.arange(6))[0].tolist() == [0, 7, 1, 7, 2, 7]
    assert store.document_ids([2]) == ["2.txt"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store"]
    assert len(list((tmp_path / "store").iterdir())) == 4


def test_a_shard_that_two_processes_write_at_once_is_whole(tmp_path):
    """A machine that was taken for lost may still write."""
    store = begun(tmp_path / "store")
    with store.write_shard(0) as lost, store.write_shard(0) as again:
        lost.append(tokenized([[(5, True)]]))
        again.append(tokenized([[(5, True)]]))
    assert lost.entry == again.entry == store.finished_shard(0)
    assert len(list((tmp_path / ".writing-store").iterdir())) == 2


def test_what_a_writer_of_something_else_left_does_not_get_into_the_store(tmp_path):
    write_shard(begun(tmp_path / "store", text="old"), 0, [[(5, True)]])
    assert begun(tmp_path / "store", text="new").finished_shard(0) is None


def test_shards_with_words_that_depend_on_others_are_deleted_and_that_is_noted(tmp_path):
    store = begun(tmp_path / "store")
    write_shard(store, 0, [[(5, True)]])
    assert not store.has_dependent_words
    store.discard_dependent()
    again = begun(tmp_path / "store")
    assert again.has_dependent_words
    assert again.finished_shard(0) is None
    again.finish([write_shard(again, 0, [[(6, True)]])], {})
    names = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert names == ["shard-00000", "store.json"]


def test_every_file_is_flushed_to_the_disk_before_the_store_gets_its_name(tmp_path, monkeypatch):
    """Else a power cut leaves a store of the right name with empty files."""
    flushed = set()
    monkeypatch.setattr("os.fsync", lambda number: flushed.add(os.fstat(number).st_ino))
    write(tmp_path / "store", [[(5, True)]])
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) == 15
    assert {path.stat().st_ino for path in files} <= flushed


# Damage.

SHARD_FILES = [*(f"{name}.bin" for name in ("ids", *store_format.ARRAYS)), "documents.jsonl"]


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A store of two shards."""
    path = tmp_path_factory.mktemp("sound") / "store"
    store = begun(path)
    shards = []
    for number, first in enumerate((0, 2)):
        documents = [[(first, True), (5, False), (UNKNOWN, True)], [(first + 1, True)]]
        shards.append(write_shard(store, number, documents, first=first))
    store.finish(shards, {"documents": 4})
    return path


@pytest.fixture
def store_path(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "store"))


@pytest.mark.parametrize("name", ["store.json", *(f"shard-00001/{n}" for n in SHARD_FILES)])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_the_remedy(store_path, name, damage):
    damage(store_path / name)
    if (name, damage) == ("store.json", Path.unlink):
        message = "no token store"
    else:
        message = f"{name}: .*; copy the store again, or build it again with `mlmtune prepare`"
    with pytest.raises(DataError, match=message) as caught:
        TokenStore.open(store_path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["store.json", *(f"shard-00000/{n}" for n in SHARD_FILES)])
def test_no_bit_flips_in_silence(store_path, name):
    """It is refused, or (white space of a manifest) the same store is opened."""
    expected = TokenStore.open(store_path)
    path = store_path / name
    content = path.read_bytes()
    for place in range(0, len(content), 1 + len(content) // 100):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = TokenStore.open(store_path)
        except DataError:
            continue
        assert name == "store.json"
        for name_, value in vars(found).items():
            np.testing.assert_equal(value, vars(expected)[name_])


@pytest.mark.parametrize("name", [f"{n}.bin" for n in store_format.DOCUMENT_ARRAYS])
def test_values_that_change_places_are_noticed(store_path, name):
    path = store_path / "shard-00000" / name
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[half:] + content[:half])
    with pytest.raises(DataError, match=f"{name}: damaged"):
        TokenStore.open(store_path)


@pytest.mark.parametrize("name", ["", "/ids.bin"])
def test_shards_that_change_places_are_noticed(store_path, name):
    first, second = (store_path / f"shard-0000{number}{name}" for number in range(2))
    first.rename(store_path / "aside")
    second.rename(first)
    (store_path / "aside").rename(second)
    with pytest.raises(DataError, match=r"shard-00000/\w+\.bin: damaged"):
        TokenStore.open(store_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids", [0, 1000, 6, 1], "holds ids beyond the vocabulary"),
        ("lengths", [5, -1], "does not add up to the tokens"),
        ("lengths", [3, 3], "does not add up to the tokens"),
        ("sources", [0, 2], "names more than 2 sources"),
    ],
)
def test_values_out_of_range_are_refused_whatever_the_hashes_say(
    store_path, name, content, message
):
    array = np.asarray(content, {"ids": "<u2", **store_format.ARRAYS}[name])
    (store_path / "shard-00000" / f"{name}.bin").write_bytes(array.data)
    manifest = unsealed((store_path / "store.json").read_bytes())
    manifest["shards"][0]["digests"][name] = digest(array.data)
    (store_path / "store.json").write_bytes(sealed(manifest))
    with pytest.raises(DataError, match=message):
        TokenStore.open(store_path)


def test_large_files_are_hashed_once_after_each_start_of_the_machine(
    store_path, tmp_path, monkeypatch
):
    notes = tmp_path / "notes"
    notes.mkdir()
    hashed = []
    monkeypatch.setattr(
        store_format, "file_digest", lambda path: hashed.append(path.name) or file_digest(path)
    )

    def is_hashed():
        hashed.clear()
        TokenStore.open(store_path, notes)
        return bool(hashed)

    assert [is_hashed(), is_hashed()] == [True, True]  # it was just written and may yet change
    monkeypatch.setattr("mlmtune.integrity.SETTLED_SECONDS", -1.0)
    assert [is_hashed(), is_hashed()] == [True, False]
    assert set(hashed) == set()
    with monkeypatch.context() as patch:
        patch.setattr("psutil.boot_time", lambda: 1.0)
        assert is_hashed()

    assert [is_hashed(), is_hashed()] == [True, False]
    path = store_path / "shard-00001" / "ids.bin"
    times = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"ids\.bin: damaged"):
        TokenStore.open(store_path, notes)


def test_a_store_that_was_taken_away_under_its_reader_is_said(store_path):
    store = TokenStore.open(store_path)
    shutil.rmtree(store_path)
    assert store.tokens_at(np.arange(2))[0].tolist() == [0, 5]
    with pytest.raises(DataError, match="was deleted or replaced while it was in use"):
        store.document_ids([0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no token store"),
        ("{", "damaged"),
        (json.dumps({"format_version": 1}), "format 1"),
        ("[]", "damaged"),
    ],
)
def test_what_is_no_store_is_said(tmp_path, content, message):
    if content is not None:
        (tmp_path / "store.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        TokenStore.open(tmp_path)
