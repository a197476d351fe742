"""The export of the cleaned documents as one file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlmtune.config import CorpusConfig
from mlmtune.corpus.corpus import Corpus
from mlmtune.corpus.parts import row_groups
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import ConfigError, ResourceError
from mlmtune.files import file_of_user

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
        ConfigError: The name ends in none of `WRITERS`.
        ResourceError: The folder does not exist.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"--export {path}: give a name that ends in {' or '.join(WRITERS)}")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a file of `--export` whose folder does not exist.

    Raises:
        ResourceError: It does not.
    """
    if not path.absolute().parent.is_dir():
        raise ResourceError(f"--export {path}: cannot be written: there is no such folder")


def export(corpus: Corpus, config: CorpusConfig, path: Path) -> int:
    """Write the documents that are kept, in order, each with its id, source and split.

    With `split_by: chunk`, `split` is null, because a document may be on both sides.

    Returns:
        The number of documents.

    Raises:
        OSError: The file cannot be written; an old file of that name stays as it was.
    """
    kept = corpus.table.kept()
    sides = iter(_sides(corpus, config, kept))
    with file_of_user(path) as written, WRITERS[path.suffix](written) as write:
        for documents in row_groups(corpus.documents()):
            write(
                [
                    {
                        "id": document.id,
                        "source": corpus.sources[document.source].name,
                        "split": next(sides),
                        "text": document.text,
                    }
                    for document in documents
                ]
            )
    return len(kept)


def _sides(
    corpus: Corpus, config: CorpusConfig, documents: NDArray[np.int64]
) -> list[Literal["train", "validation"] | None]:
    if config.split_by == "chunk":
        return [None] * len(documents)
    hashes, sources = corpus.table.content_hashes[documents], corpus.table.sources_of(documents)
    is_validation = validation_mask(hashes, sources, config).tolist()
    return ["validation" if held_out else "train" for held_out in is_validation]
