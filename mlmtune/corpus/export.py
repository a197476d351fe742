"""The export of the cleaned documents as one file."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlmtune.config import CorpusConfig
from mlmtune.corpus.corpus import Corpus
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import ConfigError, ResourceError
from mlmtune.files import whole_file

ROWS_AT_ONCE = 1024
_CHARACTERS_AT_ONCE = 1 << 22
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("text", pa.large_string()),
    ]
)

Write = Callable[[list[dict[str, Any]]], object]


@contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(
            json.dumps(row, ensure_ascii=False) + "\n" for row in rows
        )


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    # Opened here, because Arrow seeks in files that it opens, which a pipe does not allow.
    with path.open("wb") as file, pq.ParquetWriter(file, _SCHEMA) as writer:
        yield lambda rows: writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))


WRITERS = {".jsonl": _json_lines, ".parquet": _parquet}
"""What opens a file for writing rows, by the ending of its name."""


def check_target(path: Path) -> None:
    """Refuse an export that cannot be written, before anything is read.

    Raises:
        ConfigError: the name ends in none of `WRITERS`.
        ResourceError: the folder does not exist.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"--export {path}: give a name that ends in {' or '.join(WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise ResourceError(f"--export {path}: cannot be written: there is no such folder")


def export(corpus: Corpus, config: CorpusConfig, path: Path) -> int:
    """Write the documents that are kept, in order, each with its id, source and split.

    With `split_by: chunk`, `split` is null, because a document may be on both sides.

    Returns:
        The number of documents.

    Raises:
        OSError: the file cannot be written; an old file of that name stays as it was.
    """
    num_documents = 0
    with _target(path) as written, WRITERS[path.suffix](written) as write:
        for rows in _in_groups(_rows(corpus, config)):
            write(rows)
            num_documents += len(rows)
    return num_documents


def _target(path: Path) -> AbstractContextManager[Path]:
    # A pipe or device must be written itself, because a new file would replace it.
    is_special = path.exists() and not (path.is_file() or path.is_dir())
    return nullcontext(path) if is_special else whole_file(path)


def _rows(corpus: Corpus, config: CorpusConfig) -> Iterator[dict[str, Any]]:
    kept = corpus.table.kept()
    sides: list[str | None] = [None] * len(kept)
    if config.split_by == "document":
        hashes, sources = corpus.table.content_hashes[kept], corpus.table.sources_of(kept)
        is_validation = validation_mask(hashes, sources, config).tolist()
        sides = ["validation" if held_out else "train" for held_out in is_validation]
    for side, document in zip(sides, corpus.documents(), strict=True):
        yield {
            "id": document.id,
            "source": corpus.sources[document.source].name,
            "split": side,
            "text": document.text,
        }


def _in_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    num_characters = 0
    for row in rows:
        group.append(row)
        num_characters += len(row["text"])
        if len(group) == ROWS_AT_ONCE or num_characters > _CHARACTERS_AT_ONCE:
            yield group
            group, num_characters = [], 0
    if group:
        yield group
