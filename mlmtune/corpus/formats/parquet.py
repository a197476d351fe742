"""Parquet and Arrow: a row is a document."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING

from mlmtune.config import SourceConfig
from mlmtune.corpus.decoding import open_bytes
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import Format
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, Record, Value, text_columns, texts_of

if TYPE_CHECKING:
    import pyarrow as pa

    ChooseColumns = Callable[[pa.Schema], Sequence[str]]

_PARQUET_BATCH_ROWS = 64
_PARQUET_BUFFER_BYTES = 1 << 20


def read_parquet(path: str, source: SourceConfig, decoding: Decoding) -> Iterator[Record]:
    """Yield a document for each row."""
    choose = partial(_string_columns, text_field=source.text_field)
    return texts_of(parquet_values(path, choose), source.text_field)


def parquet_values(path: str, choose: "ChooseColumns") -> Iterator[Value | BrokenRecord]:
    """Yield the rows of a Parquet file, an Arrow file or an Arrow stream."""
    import pyarrow as pa  # takes 0.1 s

    number = 0
    with open_bytes(path) as file:
        try:
            for batch in _iter_batches(file, choose):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for row in range(batch.num_rows):
                    number += 1
                    where = f" (row {number})"
                    try:
                        value = {name: column[row].as_py() for name, column in columns.items()}
                    except UnicodeDecodeError:
                        yield BrokenRecord(where, "its text is not UTF-8")
                    else:
                        yield Value(value, f"#{number}", where)
        except (pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
            # Arrow reads lengths from the file, and wrong ones may exceed all memory.
            said = " ".join(str(error).split()) or "more memory is asked for than there is"
            detail = f"not a valid Parquet or Arrow file ({said}); fetch it again"
            raise FileLeftOut("damaged", detail, broken=True) from error


def _iter_batches(file: IO[bytes], choose: "ChooseColumns") -> "Iterator[pa.RecordBatch]":
    """Yield the chosen columns, some rows at a time. The first bytes show the kind of file."""
    start = file.read(8)
    file.seek(0)
    if start.startswith(b"PAR1"):
        return _iter_parquet(file, choose)
    if start.startswith(b"ARROW1"):
        return _iter_arrow(file, choose, is_stream=False)
    if start.startswith(b"\xff\xff\xff\xff"):  # a message follows
        return _iter_arrow(file, choose, is_stream=True)
    if not start:
        raise FileLeftOut("empty", "no bytes")
    raise FileLeftOut("damaged", "neither Parquet nor Arrow", broken=True)


def _iter_parquet(file: IO[bytes], choose: "ChooseColumns") -> "Iterator[pa.RecordBatch]":
    from pyarrow.parquet import ParquetFile

    # By default a whole row group is read ahead, which may be the whole file.
    table = ParquetFile(file, buffer_size=_PARQUET_BUFFER_BYTES, pre_buffer=False)
    columns = list(choose(table.schema_arrow))
    yield from table.iter_batches(_PARQUET_BATCH_ROWS, columns=columns, use_threads=False)


def _iter_arrow(
    file: IO[bytes], choose: "ChooseColumns", *, is_stream: bool
) -> "Iterator[pa.RecordBatch]":
    from pyarrow import ipc

    open_arrow = ipc.open_stream if is_stream else ipc.open_file
    schema = open_arrow(file).schema
    fields = [schema.names.index(name) for name in choose(schema)]
    file.seek(0)
    reader = open_arrow(file, options=ipc.IpcReadOptions(included_fields=fields, use_threads=False))
    batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
    for batch in batches:
        # Arrow trusts the offsets in the file, and wrong ones would crash the process.
        batch.validate(full=True)
        yield batch


def _string_columns(schema: "pa.Schema", text_field: str | None) -> list[str]:
    """Return the `text_columns` of a table, which must hold strings."""
    from pyarrow import types

    columns = text_columns(schema.names, text_field, nested=True)
    for column in columns:
        kind = schema.types[schema.names.index(column)]
        values = kind.value_type if types.is_dictionary(kind) else kind
        is_inside = text_field not in (None, column) and types.is_struct(values)
        kinds = (types.is_string, types.is_large_string, types.is_string_view)
        if not (is_inside or any(is_kind(values) for is_kind in kinds)):
            raise FileLeftOut.misread(
                f"column '{column}' holds {kind}, not strings (set text_field)"
            )
    return columns


FORMAT = Format(
    read_parquet,
    endings=(".parquet", ".arrow", ".feather", ".ipc"),
    is_compressed_within=True,
)
