"""Parts are kept in a folder, or at any location that fsspec opens for writing."""

from contextlib import suppress

import fsspec
import pytest

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.corpus import remote
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, HubError


@pytest.fixture(params=["folder", "local", "memory"])
def place(request, tmp_path):
    """A place for parts of each kind."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
    locations = {"folder": None, "local": f"local://{tmp_path}/b", "memory": "memory://b/parts/"}
    return PartFiles(tmp_path / "cache", locations[request.param])


def write(place, name, content=b"...PAR1"):
    with place.writing(name) as path:
        path.write_bytes(content)


def test_what_is_written_is_there_and_can_be_read_and_deleted(place):
    names = ["ab/1.parquet", "ab/2.parquet", "cd/3.parquet"]
    assert place.finished(names) == set()
    for name in names[:2]:
        write(place, name)
    assert place.finished(names) == set(names[:2])
    assert [place.is_finished(name) for name in names] == [True, True, False]
    with place.reading(names[0]) as path:
        assert path.read_bytes() == b"...PAR1"
    place.delete(names[0])
    place.delete(names[0])
    assert place.finished(names) == {names[1]}


def test_a_copy_stays_only_where_the_files_are(place):
    write(place, "ab/1.parquet")
    with place.reading("ab/1.parquet"):
        pass
    left = [path.name for path in place.folder.rglob("*") if path.is_file()]
    assert left == (["1.parquet"] if place.location is None else [])


def test_what_is_not_whole_is_not_there(place, monkeypatch):
    with suppress(KeyboardInterrupt), place.writing("ab/1.parquet") as path:
        path.write_bytes(b"...")
        raise KeyboardInterrupt
    if place.location is not None:  # an upload that fails
        file_system = type(fsspec.url_to_fs(place.location)[0])

        def half(fs, source, target, **_):
            with fs.open(target, "wb") as file:
                file.write(b"..")
            raise OSError("the connection was lost")

        monkeypatch.setattr(file_system, "put_file", half)
        if "memory" in place.location:  # here it stands for an object store, which is atomic
            monkeypatch.setattr(file_system, "put_file", lambda *_, **__: 1 / 0)
        with pytest.raises(HubError, match=r"tokenization\.parts: .* cannot be used"):
            write(place, "ab/1.parquet")
    assert not place.is_finished("ab/1.parquet")
    assert place.finished(["ab/1.parquet"]) == set()


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("nosuch://b", ConfigError, "nosuch:// is not a kind of location that fsspec knows"),
        ("http://127.0.0.1:9/b", HubError, "cannot be used"),
    ],
)
def test_a_location_that_cannot_be_used_is_said(tmp_path, location, error, message):
    place = PartFiles(tmp_path, location)
    with pytest.raises(error, match=message):
        write(place, "ab/1.parquet")


def test_a_path_is_no_location():
    with pytest.raises(ValueError, match="expected a location such as s3://bucket/parts"):
        TokenizationConfig(parts="/data/parts")


@pytest.fixture
def read(tmp_path, console):
    """Read a corpus of two files, whose parts are kept elsewhere, with a cache of its own."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a", "b"):
        (docs / f"{name}.txt").write_text(f"text {name}")
    config = CorpusConfig(sources=[SourceConfig(format="text", path=str(docs))], near_duplicates={})

    def documents(cache, location=f"local://{tmp_path}/parts"):
        settings = TokenizationConfig(cache_dir=str(tmp_path / cache), parts=location)
        text = CorpusText.of(config, settings, console).listed()
        return [(document.id, document.text) for document in text.read().documents()]

    return documents


def test_several_caches_share_parts(read, tmp_path, monkeypatch):
    expected = read("alone", None)
    assert read("first") == expected
    [part] = (tmp_path / "parts").rglob("*.parquet")
    before = part.stat().st_mtime_ns
    monkeypatch.setattr(remote, "upload", None)  # nothing is cleaned again
    assert read("second") == expected
    assert part.stat().st_mtime_ns == before
    assert not list((tmp_path / "second").rglob("*.parquet"))


def test_a_damaged_part_is_made_again_where_it_is(read, tmp_path, console):
    expected = read("first")
    [part] = (tmp_path / "parts").rglob("*.parquet")
    content = part.read_bytes()
    part.write_bytes(content[:-20])
    assert read("first") == expected
    assert part.read_bytes() == content
    [said] = console.lines
    assert said == f"local://{part}: a part of the cleaned corpus is damaged; it is cleaned again"
