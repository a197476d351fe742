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
from mlmtune.tokens import store_format, store_writer
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.store_format import DocumentArrays, is_finished
from mlmtune.tokens.store_writer import StoreWriter, TokenizedDocuments
from mlmtune.tokens.unknown import UnknownText

DOCUMENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 999), st.booleans()), max_size=20), max_size=12
)
SOURCES = [("given", True), ("docs", False)]
UNKNOWN = 3


def writer_of(path, vocabulary_size=1000, **made_of):
    return StoreWriter(path, vocabulary_size, SOURCES, {"fingerprint": "f", **made_of})


def append(writer, documents, first=0):
    """Append documents that are lists of (id, starts a word)."""
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
    batch = TokenizedDocuments(
        ids=np.asarray([id_ for id_, _ in tokens], dtype=np.int64),
        word_starts=np.asarray([start for _, start in tokens], dtype=bool),
        arrays=arrays,
        document_ids=[f"{n}.txt" for n in numbers],
        unknown_characters=unknown.characters,
    )
    writer.append(batch)


def unknown_of(documents):
    """Each unknown token stands for a word of three bytes, which is one character."""
    counts = np.asarray([sum(id_ == UNKNOWN for id_, _ in d) for d in documents], dtype=np.int64)
    return UnknownText(counts, 3 * counts, counts, Counter({"\u1780": int(counts.sum())}))


def write(path, documents, **arguments):
    writer = writer_of(path, **arguments)
    append(writer, documents)
    writer.finish({})
    return TokenStore.open(path)


@pytest.mark.parametrize("shard_tokens", [1, 30, 1000])
@given(batches=st.lists(DOCUMENTS, max_size=4))
@settings(max_examples=30)
def test_what_is_appended_is_what_is_opened(shard_tokens, batches):
    """Above all the packed bits, whose shards do not end on whole bytes."""
    documents = [document for batch in batches for document in batch]
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(store_writer, "SHARD_TOKENS", shard_tokens)
        path = Path(folder) / "store"
        writer = writer_of(path)
        for number, batch in enumerate(batches):
            append(writer, batch, first=sum(map(len, batches[:number])))
        writer.finish({"documents": len(documents)})
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


def test_positions_of_several_shards_come_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_TOKENS", 2)
    writer = writer_of(tmp_path / "store")
    for number in range(5):
        append(writer, [[(10 * number, True), (10 * number + 1, False)]], first=number)
    writer.finish({})
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
    writer = writer_of(path)
    append(writer, [[(5, True)]])
    assert not is_finished(path)
    writer.finish({})
    assert TokenStore.open(path).num_tokens == 1
    assert list(tmp_path.iterdir()) == [path]
    assert sorted(entry.name for entry in path.iterdir()) == ["shard-00000", "store.json"]


def test_an_interrupted_writer_goes_on_after_its_last_finished_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_TOKENS", 2)
    documents = [[(number, True), (7, False)] for number in range(5)]
    first = writer_of(tmp_path / "store")
    for number in range(3):
        append(first, documents[number : number + 1], first=number)
    half = tmp_path / ".writing-store" / ".writing-shard-00003"
    half.mkdir()
    (half / "ids.bin").write_bytes(b"killed in here")
    finished = tmp_path / ".writing-store" / "shard-00001" / "ids.bin"
    before = finished.stat().st_mtime_ns

    second = writer_of(tmp_path / "store")
    assert second.num_documents == 3
    assert finished.stat().st_mtime_ns == before
    for number in range(3, 5):
        append(second, documents[number : number + 1], first=number)
    second.finish({})
    store = TokenStore.open(tmp_path / "store")
    assert store.tokens_at(np.arange(10))[0].tolist() == [0, 7, 1, 7, 2, 7, 3, 7, 4, 7]
    assert store.document_ids([4]) == ["4.txt"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["store"]


def test_what_a_writer_of_something_else_left_does_not_get_into_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_TOKENS", 1)
    append(writer_of(tmp_path / "store", text="old"), [[(5, True)]])
    writer = writer_of(tmp_path / "store", text="new")
    assert writer.num_documents == 0
    append(writer, [[(6, True)]])
    writer.finish({})
    assert TokenStore.open(tmp_path / "store").tokens_at(np.arange(1))[0].tolist() == [6]


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "SHARD_TOKENS", 4)
        writer = writer_of(path)
        for first in (0, 2):
            documents = [[(first, True), (5, False), (UNKNOWN, True)], [(first + 1, True)]]
            append(writer, documents, first=first)
        writer.finish({"documents": 4})
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


def test_an_interrupted_writer_does_not_go_on_with_damaged_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "SHARD_TOKENS", 1)
    first = writer_of(tmp_path / "store")
    for number in range(4):
        append(first, [[(number, True)]], first=number)
    flip_a_bit(tmp_path / ".writing-store" / "shard-00001" / "ids.bin")
    second = writer_of(tmp_path / "store")
    assert second.num_documents == 1
    append(second, [[(9, True)]], first=1)
    second.finish({})
    store = TokenStore.open(tmp_path / "store")
    assert [shard.ids.tolist() for shard in store.shards] == [[0], [9]]


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
