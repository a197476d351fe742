"""The reader of each format: from a path to raw documents.

A reader gives the text as it is in the file; cleaning comes after. A record that is broken is
given as a `BrokenRecord` in its place, so that the others are not lost.

To add a format: a module in `formats`, a row in `READERS` and one in `ENDINGS`, and its name in
`SourceConfig.format`. A dataset is no file, and is read by `mlmtune.corpus.hub`.
"""

from collections.abc import Callable, Iterator

from mlmtune.config import SourceConfig
from mlmtune.corpus.compression import COMPRESSIONS
from mlmtune.corpus.decoding import Span
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats.csv_rows import read_csv
from mlmtune.corpus.formats.json_values import JSON_LINES, read_json
from mlmtune.corpus.formats.plain import read_lines, read_markdown, read_plain, read_sentences
from mlmtune.corpus.formats.python_strings import read_python
from mlmtune.corpus.formats.records import Record
from mlmtune.corpus.formats.tables import read_parquet

Reader = Callable[[str, SourceConfig, Decoding], Iterator[Record]]
"""(path, the source that it is of, its decoding) -> records; raises `FileLeftOut` where the file
cannot be read."""

READERS: dict[str, Reader] = {
    "markdown": read_markdown,
    "text": read_plain,
    "lines": read_lines,
    "sentences": read_sentences,
    "json": read_json,
    "csv": read_csv,
    "parquet": read_parquet,
    "python": read_python,
}

ENDINGS: dict[str, tuple[str, ...]] = {
    "markdown": (".md", ".markdown", ".mdx"),
    "text": (".txt",),
    "lines": (".txt", ".tokens", ".raw"),
    "sentences": (".txt",),
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet", ".arrow", ".feather", ".ipc"),
    "python": (".py",),
}
"""The endings of each format, before those of a compression."""

# No one compresses them once more, and they are not read from start to end.
_COMPRESSED_WITHIN = frozenset({"parquet"})


LINE_READERS: dict[str, Callable[[str, SourceConfig, Decoding, Span | None], Iterator[Record]]] = {
    "lines": read_lines,
    "json": read_json,
}
"""Readers of files whose lines are records, which read any span of a file by itself."""


def has_lines(path: str, format_: str) -> bool:
    """Whether a file of some format is read line by line."""
    return format_ == "lines" or (format_ == "json" and path.lower().endswith(JSON_LINES))


def file_endings(format_: str) -> tuple[str, ...]:
    """The endings that are read below a folder: a format's own, and each with a compression."""
    endings = ENDINGS[format_]
    if format_ in _COMPRESSED_WITHIN:
        return endings
    return endings + tuple(
        ending + compression for compression in COMPRESSIONS for ending in endings
    )
