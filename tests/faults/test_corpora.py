"""Text that is broken, hostile, too much, or gone; and a preparation that is interrupted.

What cannot be read is left out, counted and named. What is broken ends in one line with its place,
or is left out as well, as `corpus.on_error` says.
"""

import bz2
import gzip
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from child import full_disk, killed_after_shards, with_programs_of, without_privileges

from mlmtune.commands.prepare import prepare_store
from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.config_loading import load_config
from mlmtune.corpus.corpus import Corpus
from mlmtune.corpus.funnel import SourceFunnel
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError
from mlmtune.tokens import tokenization
from mlmtune.tokens.store import TokenStore

PROSE = "the storage account of a small cluster is ready. "
GREETING = "Grüße aus Köln, schöne Straße, größere Häuser. "
KILLED = -signal.SIGKILL


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder of its own for the text that is at fault."""
    folder = tmp_path / "text"
    folder.mkdir()
    return folder


@pytest.fixture
def read(text: Path, corpus_dir: Path, tmp_path: Path, console: Any) -> Callable[..., Corpus]:
    """Reads that folder, beside text with no fault."""

    def read_text(format_: str = "text", **settings: Any) -> Corpus:
        at_fault = SourceConfig(format=format_, path=str(text), name="at fault")
        beside = SourceConfig(format="text", path=str(corpus_dir), name="beside")
        config = CorpusConfig(sources=[at_fault, beside], **settings)
        return CorpusText(config, console, str(tmp_path)).listed().read()

    return read_text


@pytest.fixture
def run(start: Callable[..., Any], corpus_dir: Path) -> Callable[..., Any]:
    """Runs a command on some source, beside text with no fault, to its end."""

    def run_command(
        command: str, source: dict[str, Any], *options: str, fault: Any = None, **settings: Any
    ) -> Any:
        sources = [source, {"format": "text", "path": str(corpus_dir)}]
        corpus = {"sources": sources, **settings}
        child = start(*options, command=command, fault=fault, corpus=corpus)
        child.exit_code()
        return child

    return run_command


def assert_fails(child: Any, code: int, *parts: str) -> None:
    """One line that holds these parts, below what was said on the way."""
    assert child.exit_code() == code, (child.out, child.err)
    lines = [line for line in child.err.splitlines() if line.startswith("mlmtune: ")]
    assert len(lines) == 1, child.err
    for part in parts:
        assert part in lines[0]
    assert "Traceback" not in child.err


def mlmtune(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """`mlmtune ARGUMENTS` in a process that starts from nothing, and in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlmtune", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, **variables},
    )  # fmt: skip


def family(pid: int) -> list[psutil.Process]:
    """A process, and those that it started and they."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


# ---------------------------------------------------------------------- bytes that are no text


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize(
    ("name", "content", "format_", "reason", "detail"),
    [
        ("a.txt", GREETING.encode() * 9 + b"\xff" + GREETING.encode(), "text", "undecodable",
         f"byte {9 * len(GREETING.encode())}"),
        ("a.txt", b"\xff\xfe" + "text".encode("utf-16-le") + b"\0", "text", "binary", ""),
        ("a.txt", b"\0" * 5000, "text", "binary", "not text"),
        ("a.md", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "markdown", "binary", "not text"),
        ("a.md", PROSE.encode() * 200_000, "markdown", "too_large", "format: text"),
        ("a.txt", b"", "text", "empty", ""),
        ("a.jsonl", b"", "json", "empty", ""),
        ("a.jsonl.gz", b"", "json", "empty", ""),
        ("a.csv", b"", "csv", "empty", ""),
        ("a.parquet", b"", "parquet", "empty", ""),
    ],
    ids=["UTF-8 invalid", "UTF-16 invalid", "NUL", "binary called .md", "huge page", "empty",
         "empty .jsonl", "empty .gz", "empty .csv", "empty .parquet"],
)  # fmt: skip
def test_what_is_no_text_is_left_out_counted_and_named(
    read: Callable[..., Corpus], text: Path, name: str, content: bytes, format_: str,
    reason: str, detail: str, on_error: str,
) -> None:  # fmt: skip
    (text / name).write_bytes(content)
    funnel = read(format_, on_error=on_error).funnel
    assert funnel.sources["at fault"] == SourceFunnel(files_left_out=Counter({reason: 1}))
    [named] = funnel.files_left_out
    assert (named["path"], named["reason"]) == (str(text / name), reason)
    assert detail in named["detail"]
    assert funnel.total().documents_kept == 40


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GREETING.encode("utf-8-sig"), GREETING.strip()),
        (GREETING.encode("utf-16"), GREETING.strip()),
        (GREETING.encode("utf-16-be"), GREETING.strip()),
        (GREETING.encode("cp1252"), GREETING.strip()),
        (PROSE.encode() * 9 + b"\0" + PROSE.encode(), (PROSE * 10).strip()),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + PROSE.encode(), PROSE.strip()),
    ],
    ids=["BOM", "UTF-16", "UTF-16 without BOM", "before Unicode", "one NUL", "two BOM"],
)
def test_what_can_be_decoded_is_read(
    read: Callable[..., Corpus], text: Path, content: bytes, expected: str
) -> None:
    (text / "a.txt").write_bytes(content)
    assert next(read().documents()).text == expected


def test_a_file_of_white_space_is_an_empty_document(
    read: Callable[..., Corpus], text: Path
) -> None:
    (text / "a.txt").write_text(" \n\t\n", encoding="utf-8")
    funnel = read().funnel.sources["at fault"]
    assert (funnel.files_read, funnel.documents_left_out) == (1, {"empty": 1})


# -------------------------------------------------------------------------- records and tables


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


BROKEN_RECORDS = [
    ("a.jsonl", b'{"text": "one"}\n{"text": "two"\n', "json", ":2: not a line of JSON"),
    ("a.jsonl", b'{"text": "one"}\n{"text": 5}\n', "json",
     ":2: field 'text' is a number, not a string"),
    ("a.jsonl", b'{"text": "one"}\n{"body": "two", "id": 2}\n', "json",
     ":2: no field 'text'; the fields are: body, id"),
    ("a.csv", b"text,id\none,1\ntwo,2,3\n", "csv", ":3: a row of 3 fields"),
    ("a.txt", f"{GREETING}\n".encode() * 9000 + b"\xff\n", "lines", ":9001: not utf-8 at byte"),
]  # fmt: skip

BROKEN_FILES = [
    ("a.json", b'[{"text": "one"', "json", "line 1 is not JSON"),
    ("a.parquet", parquet(text=["a"] * 999)[:-30], "parquet", "not a valid Parquet"),
    ("a.parquet", b"PAR1", "parquet", "not a valid Parquet"),
    ("a.txt.gz", gzip.compress(os.urandom(999).hex().encode())[:-20], "text", "truncated"),
    ("a.jsonl.bz2", bz2.compress(b'{"text": "a"}\n')[:-9], "json", "truncated"),
    ("a.txt.gz", PROSE.encode(), "text", "damaged"),
]

MISREAD_FILES = [
    ("a.csv", b"body,id\none,1\n", "csv", "no column 'text'; the columns are: body, id"),
    ("a.parquet", parquet(text=[1, 2]), "parquet", "column 'text' holds int64, not strings"),
    ("a.parquet", parquet(body=["a"], id=[1]), "parquet", "the columns are: body, id"),
    ("a.jsonl", b'{"body": "one"}\n', "json", "no field 'text'; the fields are: body"),
]


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize(("name", "content", "format_", "part"), MISREAD_FILES)
def test_what_the_config_names_and_no_record_has_is_an_error_in_any_case(
    read: Callable[..., Corpus], text: Path, name: str, content: bytes, format_: str, part: str,
    on_error: str,
) -> None:  # fmt: skip
    (text / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(format_, on_error=on_error)
    message = str(caught.value)
    assert message.startswith(f"{text / name}:")
    assert part in message
    assert "on_error" not in message
    assert "set text_field" in message


@pytest.mark.parametrize(("name", "content", "format_", "part"), BROKEN_RECORDS + BROKEN_FILES)
def test_what_is_broken_ends_in_a_line_that_names_it(
    read: Callable[..., Corpus], text: Path, name: str, content: bytes, format_: str, part: str
) -> None:
    (text / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(format_)
    message = str(caught.value)
    assert message.startswith(f"{text / name}:")
    assert part in message
    assert "corpus.on_error: skip" in message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "content", "format_", "part"), BROKEN_RECORDS)
def test_a_broken_record_can_be_left_out(
    read: Callable[..., Corpus], text: Path, name: str, content: bytes, format_: str, part: str
) -> None:
    (text / name).write_bytes(content)
    funnel = read(format_, on_error="skip").funnel
    counts = funnel.sources["at fault"]
    assert (counts.files_read, counts.documents_left_out["broken"]) == (1, 1)
    assert counts.documents_kept >= 1
    [named] = funnel.records_broken
    assert f"{named['place']}: {named['detail']}".startswith(f"{text / name}{part}")


@pytest.mark.parametrize(("name", "content", "format_", "part"), BROKEN_FILES)
def test_a_broken_file_can_be_left_out(
    read: Callable[..., Corpus], text: Path, name: str, content: bytes, format_: str, part: str
) -> None:
    (text / name).write_bytes(content)
    funnel = read(format_, on_error="skip").funnel
    counts = funnel.sources["at fault"]
    assert (counts.files_left_out.total(), counts.documents_kept) == (1, 0)
    [named] = funnel.files_left_out
    assert named["path"] == str(text / name)
    assert part in f"{named['reason']}: {named['detail']}"


def test_names_that_repeat_lose_no_document(tmp_path: Path, console: Any) -> None:
    """Two sources of one name, with files of one name, and a place that is named twice."""
    sources = []
    for word in ("first", "second"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "a.txt").write_text(f"the {word} document", encoding="utf-8")
        paths = [str(tmp_path / word), str(tmp_path / word / "a.txt")]
        sources.append(SourceConfig(format="text", path=paths, name="docs"))
    config = CorpusConfig(sources=sources)
    corpus = CorpusText(config, console, str(tmp_path / "cache")).listed().read()
    assert [(corpus.sources[d.source].name, d.id, d.text) for d in corpus.documents()] == [
        ("docs", "a.txt", "the first document"),
        ("docs (2)", "a.txt", "the second document"),
    ]


# -------------------------------------------------------------------------- places and sizes


def test_a_file_that_may_not_be_read_is_left_out_and_named(
    run: Callable[..., Any], text: Path
) -> None:
    for name in ("a.txt", "b.txt"):
        (text / name).write_text(f"{PROSE} {name}", encoding="utf-8")
    (text / "closed").mkdir(mode=0)
    (text / "a.txt").chmod(0)
    source = {"format": "text", "path": str(text), "name": "at fault"}
    child = run("corpus", source, "--json", fault=without_privileges)
    assert child.exit_code() == 0, child.err
    counted = json.loads(child.out)
    files = counted["sources"]["at fault"]["files"]
    counted_files = {name: files[name] for name in ("found", "read", "left_out")}
    assert counted_files == {"found": 3, "read": 1, "left_out": {"unreadable": 2}}
    named = {entry["path"]: entry["detail"] for entry in counted["files_left_out"]}
    assert named == dict.fromkeys([str(text / "a.txt"), str(text / "closed")], "Permission denied")


def test_a_place_below_a_file_does_not_exist(run: Callable[..., Any], text: Path) -> None:
    (text / "a.txt").write_text(PROSE, encoding="utf-8")
    below = text / "a.txt" / "below"
    child = run("corpus", {"format": "text", "path": str(below)})
    assert_fails(child, 3, f"{below} does not exist")


def vanish(path: Path) -> None:
    path.unlink()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("change", "reason"), [(vanish, "vanished"), (become_a_pipe, "empty")])
@pytest.mark.timeout(60)
def test_a_file_that_is_gone_by_the_time_it_is_read(
    text: Path, tmp_path: Path, console: Any, change: Callable[[Path], None], reason: str
) -> None:
    for name in ("a.txt", "b.txt"):
        (text / name).write_text(f"{PROSE} {name}", encoding="utf-8")
    config = CorpusConfig(sources=[SourceConfig(format="text", path=str(text))])
    listed = CorpusText(config, console, str(tmp_path / "cache")).listed()
    change(text / "a.txt")
    funnel = listed.read().funnel
    assert funnel.total().files_left_out == {reason: 1}
    [named] = funnel.files_left_out
    assert named["path"] == str(text / "a.txt")
    assert funnel.total().documents_kept == 1


@pytest.mark.timeout(60)
def test_links_in_a_circle_links_out_and_pipes_end_nothing(
    read: Callable[..., Corpus], text: Path, tmp_path: Path
) -> None:
    (text / "a.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "outside.txt").write_text("a secret of another folder", encoding="utf-8")
    (text / "deep").mkdir()
    (text / "deep" / "circle").symlink_to(text)
    (text / "self.txt").symlink_to("self.txt")
    (text / "gone.txt").symlink_to("nothing.txt")
    (text / "out.txt").symlink_to(tmp_path / "outside.txt")
    (text / "folder.txt").symlink_to(tmp_path)
    (text / "again.txt").symlink_to("a.txt")
    os.mkfifo(text / "pipe.txt")
    counts = read().funnel.sources["at fault"]
    assert counts.files_left_out == {"link_broken": 2, "link_outside": 2, "not_a_file": 1}
    assert (counts.files_read, counts.documents_kept) == (1, 1)


@pytest.mark.timeout(180)
def test_a_hundred_thousand_tiny_files(read: Callable[..., Corpus], text: Path) -> None:
    for folder in range(100):
        (text / str(folder)).mkdir()
        for number in range(1000):
            path = f"{text}/{folder}/{number}.txt"
            if folder == 0:
                Path(path).write_text(str(number), encoding="utf-8")
            else:  # file systems take far longer to make as many files than to name them
                os.link(f"{text}/0/{number}.txt", path)
    counts = read().funnel.sources["at fault"]
    assert (counts.files_read, counts.documents_kept) == (100_000, 1000)
    assert counts.documents_left_out == {"duplicate": 99_000}


@pytest.mark.parametrize(
    "page",
    ["[" * 20_000, "[" * 20_000 + "a" + "](b)" * 20_000, ">" * 20_000 + " a", "- " * 20_000 + "a",
     "*a **b " * 20_000, "![a](" * 20_000, "<div>" * 20_000 + "a", "`" * 20_000],
    ids=["brackets", "links", "quotes", "lists", "emphasis", "images", "tags", "ticks"],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_markdown_that_is_nested_deeply_comes_to_an_end(
    read: Callable[..., Corpus], text: Path, page: str
) -> None:
    (text / "a.md").write_text(f"{PROSE}\n\n{page}\n", encoding="utf-8")
    assert next(read("markdown").documents()).text.startswith(PROSE.strip())


# ----------------------------------------------------------------------------- a large document

HUGE_BYTES = 200_000_000
MEMORY_BYTES = 1_000_000_000


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """200 MB of one line: a file of words, and a JSON string."""
    folder = tmp_path_factory.mktemp("huge")
    words = (PROSE * 20_000).encode()
    (folder / "text").mkdir()
    with (folder / "text" / "a.txt").open("wb") as file:
        file.writelines(words for _ in range(HUGE_BYTES // len(words) + 1))
    (folder / "json").mkdir()
    with (folder / "json" / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "a small one"}\n{"text": "')
        file.writelines(words for _ in range(HUGE_BYTES // len(words) + 1))
        file.write(b'"}\n{"text": "another small one"}\n')
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("format_", "files", "documents"),
    [("text", {"too_large": 1}, {}), ("lines", {}, {"broken": 1}), ("json", {}, {"broken": 1})],
)
def test_a_line_of_200_megabytes_takes_less_than_a_gigabyte(
    config_file: Callable[..., Path], corpus_dir: Path, huge: Path, format_: str,
    files: dict[str, int], documents: dict[str, int],
) -> None:  # fmt: skip
    folder = huge / ("json" if format_ == "json" else "text")
    corpus = {
        "sources": [
            {"format": format_, "path": str(folder), "name": "huge"},
            {"format": "text", "path": str(corpus_dir)},
        ],
        "on_error": "skip",
    }
    process = mlmtune("corpus", "--json", "--config", str(config_file(corpus=corpus)))
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max([peak_bytes, *map(resident_bytes, family(process.pid))])
        time.sleep(0.01)
    out, err = process.communicate()
    assert process.returncode == 0, err
    counted = json.loads(out)["sources"]["huge"]
    assert counted["files"]["left_out"] == files
    assert counted["documents"]["left_out"] == documents
    assert counted["documents"]["kept"] == (2 if format_ == "json" else 0)
    assert HUGE_BYTES // 4 < peak_bytes < MEMORY_BYTES


# ------------------------------------------------------------------------ nothing that is left


def test_the_count_of_each_reason_is_told_where_nothing_is_left(
    run: Callable[..., Any], text: Path
) -> None:
    files = {"a": PROSE, "b": "1 2 3 " * 99, "c": "", "d": " \n", "e": "\0" * 999, "f": PROSE * 99}
    for name, content in files.items():
        (text / f"{name}.txt").write_text(content, encoding="utf-8")
    child = run(
        "train", {"format": "text", "path": str(text)},
        min_characters=400, max_characters=2000, min_letter_share=0.5,
    )  # fmt: skip
    assert_fails(
        child, 3, "no document is left to train on", "46 files found, 44 read (1 binary, 1 empty)",
        "44 documents found, 0 kept (1 empty, 41 too_short, 1 too_long, 1 few_letters)",
        "lower corpus.min_characters",
    )  # fmt: skip


# -------------------------------------------------------------- interrupted, changed, damaged

NUM_PARTS = 16


@pytest.fixture
def prepare(token_cache: Path, console: Any) -> Callable[[Path], TokenStore]:
    """What `mlmtune prepare` does, in this process; gives the store."""

    def prepare_in_cache(config: Path) -> TokenStore:
        prepare_store(load_config(config), console, refresh=False)
        [folder] = (token_cache / "tokens").glob("*/store.json")
        return TokenStore.open(folder.parent)

    return prepare_in_cache


@pytest.fixture
def pages(config_file: Callable[..., Path], text: Path) -> Path:
    """A config of so many parts that take some seconds: each source is one."""
    paragraph = "\n\n".join(f"*{PROSE}* `{PROSE}` [{PROSE}]({number})" for number in range(60))
    for number in range(NUM_PARTS):
        (text / str(number)).mkdir()
        for page in range(10):
            path = text / str(number) / f"{page}.md"
            path.write_text(f"{number} {page}\n\n{paragraph}", encoding="utf-8")
    sources = [{"format": "markdown", "path": str(path)} for path in text.iterdir()]
    return config_file(corpus={"sources": sources})


def finished_parts(cache: Path) -> dict[Path, int]:
    """Finished parts of cleaned text, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (cache / "cleaned").glob("*/*.parquet")}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, KILLED), (signal.SIGINT, 130)], ids=["kill -9", "Ctrl-C"]
)
def test_cleaning_that_is_interrupted_goes_on_with_the_parts_that_are_missing(
    prepare: Callable[[Path], TokenStore], pages: Path, token_cache: Path, number: signal.Signals,
    code: int,
) -> None:  # fmt: skip
    process = mlmtune("prepare", "--config", str(pages))
    while len(finished_parts(token_cache)) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    started = family(process.pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: the workers get it, too
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    if number == signal.SIGINT:
        assert err == "mlmtune: stopped by SIGINT; nothing more was saved\n"
    _, alive = psutil.wait_procs(started[1:], timeout=20)
    assert alive == []

    finished = finished_parts(token_cache)
    assert 2 <= len(finished) < NUM_PARTS
    store = prepare(pages)
    assert store.num_documents == 10 * NUM_PARTS
    assert finished.items() <= finished_parts(token_cache).items()
    assert len(finished_parts(token_cache)) == NUM_PARTS


def test_tokenizing_that_is_killed_goes_on_with_the_shards_that_are_missing(
    start: Callable[..., Any], prepare: Callable[[Path], TokenStore], runs: Any, token_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    child = start(command="prepare", fault=partial(killed_after_shards, 3, 2_000))
    assert child.exit_code() == KILLED
    parts = finished_parts(token_cache)
    [unfinished] = (token_cache / "tokens").glob(".writing-*")
    finished = {
        str(path.relative_to(unfinished)): path.stat().st_mtime_ns
        for path in unfinished.glob("shard-*/*")
    }
    assert len({Path(name).parent for name in finished}) == 3

    monkeypatch.setattr(tokenization, "SHARD_CHARACTERS", 2_000)
    config = runs.config()
    store = prepare(config)
    assert (len(store.shards), store.num_documents) == (5, 40)
    for name, time_ns in finished.items():
        assert (store.directory / name).stat().st_mtime_ns == time_ns
    assert finished_parts(token_cache) == parts

    resumed = {path.name: path.read_bytes() for path in store.directory.rglob("*.*")}
    shutil.rmtree(store.directory)
    anew = prepare(config)
    assert {path.name: path.read_bytes() for path in anew.directory.rglob("*.*")} == resumed


def test_a_text_that_changed_is_read_again_and_only_that(
    prepare: Callable[[Path], TokenStore], pages: Path, text: Path, token_cache: Path, console: Any
) -> None:
    before = prepare(pages)
    parts = finished_parts(token_cache)
    shutil.rmtree(before.directory)  # `prepare` opens the only one
    (text / "3" / "new.md").write_text("a new page", encoding="utf-8")
    assert prepare(pages).num_documents == before.num_documents + 1
    assert "the text has changed since it was last read" in console.lines
    assert parts.items() < finished_parts(token_cache).items()
    assert len(finished_parts(token_cache)) == NUM_PARTS + 1


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 16
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_part_that_was_cut_short_is_made_anew(
    prepare: Callable[[Path], TokenStore], runs: Any, token_cache: Path
) -> None:
    before = prepare(runs.config())
    [part] = finished_parts(token_cache)
    whole = part.read_bytes()
    cut_short(part)
    shutil.rmtree(before.directory)
    assert prepare(runs.config()).num_documents == 40
    assert part.read_bytes() == whole


@pytest.mark.parametrize("column", ["text", "content_hash"])
def test_a_part_that_is_damaged_is_made_anew(
    prepare: Callable[[Path], TokenStore], runs: Any, token_cache: Path, console: Any, column: str
) -> None:
    before = prepare(runs.config())
    [part] = finished_parts(token_cache)
    whole = part.read_bytes()
    metadata = pq.read_metadata(part).row_group(0)
    numbers = {metadata.column(n).path_in_schema: n for n in range(metadata.num_columns)}
    chunk = metadata.column(numbers[column])
    content = bytearray(whole)
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 16
    part.write_bytes(content)
    shutil.rmtree(before.directory)
    np.testing.assert_equal(
        prepare(runs.config()).documents.content_hashes, before.documents.content_hashes
    )
    assert f"{part}: a part of the cleaned corpus is damaged; it is cleaned again" in console.lines
    assert part.read_bytes() == whole


def test_a_damaged_store_is_made_anew(
    start: Callable[..., Any], prepare: Callable[[Path], TokenStore], runs: Any
) -> None:
    store = prepare(runs.config())
    path = store.directory / "shard-00000" / "content_hashes.bin"
    flip_a_bit(path)
    child = start(command="prepare")
    assert child.exit_code() == 0
    assert f"{path}: damaged; the store is rebuilt" in child.out
    np.testing.assert_equal(
        prepare(runs.config()).documents.content_hashes, store.documents.content_hashes
    )


# ------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize("stage", ["cleaned", "tokens"])
def test_a_full_disk_while_preparing(
    start: Callable[..., Any], prepare: Callable[[Path], TokenStore], runs: Any, token_cache: Path,
    stage: str,
) -> None:  # fmt: skip
    if stage == "tokens":
        shutil.rmtree(prepare(runs.config()).directory)
    child = start(command="prepare", fault=partial(full_disk, 1000))
    assert_fails(child, 6, f"{token_cache}", "cannot be written (File too large); make room")
    assert not list((token_cache / "cleaned").rglob(".writing-*"))
    assert prepare(runs.config()).num_documents == 40


def test_a_cache_that_cannot_be_made(run: Callable[..., Any], start: Callable[..., Any],
                                     text: Path) -> None:  # fmt: skip
    (text / "file").touch()
    child = start(command="prepare", tokenization={"cache_dir": str(text / "file" / "cache")})
    assert_fails(child, 6, f"{text / 'file' / 'cache'}", "tokenization.cache_dir or MLMTUNE_CACHE")


# ------------------------------------------------------------------------------ git and the hub

SECRET = "canary-0d9f3b"


@pytest.mark.parametrize(
    "source",
    [
        {"git": "--upload-pack=touch ran"},
        {"git": "ext::sh -c touch% ran"},
        {"git": "file://-u/../--upload-pack=touch"},
        {"git": "ssh://-oProxyCommand=touch ran/repository"},
        {"git": "git://host/repository"},
        {"git": f"https://user:{SECRET}@127.0.0.1:9/repository"},
        {"git": f"https://{SECRET}@127.0.0.1:9/repository"},
        {"git": f"ssh://git:{SECRET}@127.0.0.1:9/repository"},
        {"git": "https://127.0.0.1:9/repository", "revision": "--upload-pack=touch ran"},
        {"git": "https://127.0.0.1:9/repository", "revision": "main:ran"},
        {"path": f"https://user:{SECRET}@127.0.0.1:9/a.md"},
    ],
)
def test_a_hostile_url_runs_nothing_and_shows_no_secret(
    run: Callable[..., Any], tmp_path: Path, source: dict[str, str]
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "ssh", "sh", "touch"):
        (programs / name).write_text(f"#!/bin/bash\n: > {tmp_path}/ran\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    fault = partial(with_programs_of, programs)
    child = run("corpus", {"format": "markdown", **source}, fault=fault)
    assert_fails(child, 2, "corpus.sources", "URL" if "revision" not in source else "revision")
    assert not (tmp_path / "ran").exists()
    assert SECRET not in child.out + child.err


def test_a_dataset_that_is_not_cached_and_no_hub_may_be_asked(run: Callable[..., Any]) -> None:
    child = run("corpus", {"format": "dataset", "dataset": "no-one/no-data"})
    assert_fails(child, 7, "corpus.sources[0].dataset: no-one/no-data: HF_HUB_OFFLINE is set")


def test_a_hub_that_does_not_answer_is_given_up_soon(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    sources = [{"format": "dataset", "dataset": "no-one/no-data"}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = mlmtune(
            "corpus", "--config", str(config_file(corpus={"sources": sources})),
            HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hub"),
        )  # fmt: skip
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            asked = time.monotonic()
            _, err = process.communicate(timeout=60)
            assert time.monotonic() - asked < 15
    assert process.returncode == 7
    [line] = err.splitlines()
    assert f"{address} cannot be reached" in line


def test_no_byte_of_what_is_written_holds_a_secret(
    config_file: Callable[..., Path], corpus_dir: Path, tmp_path: Path, token_cache: Path
) -> None:
    """A signed URL, and the token of the hub, through the whole of a run."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_text(PROSE, encoding="utf-8")
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.txt?sig={SECRET}"
        sources = [
            {"format": "text", "path": url},
            {"format": "json", "path": f"{url}#{SECRET}"},
            {"format": "text", "path": str(corpus_dir)},
        ]
        config = config_file(corpus={"sources": sources, "on_error": "skip"})
        process = mlmtune("train", "--config", str(config), "training.max_steps=1", HF_TOKEN=SECRET)
        out, err = process.communicate(timeout=120)
        server.shutdown()
    assert process.returncode == 0, err
    summary = json.loads((tmp_path / "run" / "corpus.json").read_text(encoding="utf-8"))
    name, _, _ = url.partition("?")
    assert summary["sources"][name]["documents"]["kept"] == 1
    assert summary["records_broken"][0]["place"] == f"{name}:1"
    assert SECRET not in out + err
    written = [p for place in (tmp_path / "run", token_cache) for p in place.rglob("*")]
    files = [path for path in written if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert [path for path in written if SECRET in path.name] == []


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass
