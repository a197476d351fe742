"""The cleaned documents as one file, for whatever comes after."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlmtune.config import CorpusConfig
from mlmtune.corpus.corpus import Corpus
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import ConfigError, ResourceError
from mlmtune.files import whole_file

ENDINGS = (".jsonl", ".parquet")

_ROWS_AT_ONCE = 1024
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("text", pa.large_string()),
    ]
)


def check_target(path: Path) -> None:
    """Refuse a name that says no format, or a folder that is not there, before anything is read.

    Raises:
        ConfigError: it ends in none of `ENDINGS`.
        ResourceError: its folder is not there.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(f"--export {path}: give a name that ends in {' or '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise ResourceError(f"--export {path}: cannot be written: there is no such folder")


def export(corpus: Corpus, config: CorpusConfig, path: Path) -> int:
    """Write the documents that are kept, in order, each with its id, source and split.

    Where `split_by` is `chunk`, a document has no side, and `split` is null.

    Returns:
        How many were written.

    Raises:
        OSError: the file cannot be written; a file of that name stays as it was.
    """
    num_documents = 0
    with whole_file(path) as temporary, _Writer(temporary, path.suffix) as writer:
        for rows in _in_groups(_rows(corpus, config)):
            writer.write(rows)
            num_documents += len(rows)
    return num_documents


def _rows(corpus: Corpus, config: CorpusConfig) -> Iterator[dict[str, Any]]:
    sides = _sides(corpus, config)
    for side, document in zip(sides, corpus.documents(), strict=True):
        yield {
            "id": document.id,
            "source": corpus.sources[document.source].name,
            "split": side,
            "text": document.text,
        }


def _sides(corpus: Corpus, config: CorpusConfig) -> list[str | None]:
    kept = corpus.table.kept()
    if config.split_by == "chunk":
        return [None] * len(kept)
    sources = corpus.table.sources_of(kept)
    on_validation = validation_mask(corpus.table.content_hashes[kept], sources, config)
    return ["validation" if held_out else "train" for held_out in on_validation.tolist()]


def _in_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    num_characters = 0
    for row in rows:
        group.append(row)
        num_characters += len(row["text"])
        if len(group) == _ROWS_AT_ONCE or num_characters > 1 << 22:
            yield group
            group, num_characters = [], 0
    if group:
        yield group


class _Writer:
    """Rows to JSON Lines or Parquet."""

    def __init__(self, path: Path, ending: str) -> None:
        self._parquet = pq.ParquetWriter(path, _SCHEMA) if ending == ".parquet" else None
        self._lines = None if self._parquet else path.open("w", encoding="utf-8")

    def __enter__(self) -> "_Writer":
        return self

    def write(self, rows: list[dict[str, Any]]) -> None:
        if self._parquet is not None:
            self._parquet.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
        else:
            assert self._lines is not None
            self._lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def __exit__(self, *_: object) -> None:
        for file in (self._parquet, self._lines):
            if file is not None:
                file.close()
