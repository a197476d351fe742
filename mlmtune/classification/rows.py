"""The rows of labelled data: objects of JSON, rows of CSV and Parquet files and of datasets."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mlmtune.config import DataConfig, SourceConfig
from mlmtune.corpus import hub_datasets
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats.csv import Dialect, csv_values
from mlmtune.corpus.formats.json import json_values
from mlmtune.corpus.formats.parquet import parquet_values
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, Value, kind_of, listed
from mlmtune.errors import DataError
from mlmtune.locations import resolve
from mlmtune.printable import printable

SideName = Literal["train", "validation", "test"]
SIDES: tuple[SideName, ...] = ("train", "validation", "test")

Fields = Sequence[tuple[str, str]]
"""(key of the config, field of the data) for each field that is read; the label comes last."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        fields: The values of the fields that are read, by name.
        name: The name of the row for people (`train.csv#17`).
        where: Its place for an error (`data/train.csv:18`).
    """

    fields: dict[str, Any]
    name: str
    where: str


def at_one_state(config: DataConfig, say: Callable[[str], None]) -> DataConfig:
    """Pin a dataset of the hub to one commit, so that its splits belong together.

    `say` receives one line on where the dataset comes from.

    Raises:
        MlmtuneError: See `hub_datasets.locate`.
    """
    if config.format != "dataset":
        return config
    dataset = hub_datasets.locate(_source(config, config.train), "data", say)
    is_folder = dataset.num_bytes is not None
    return config if is_folder else config.model_copy(update={"revision": dataset.signature})


def check_paths(config: DataConfig) -> None:
    """Check that files and folders of examples exist, before anything is read.

    Raises:
        DataError: One does not exist, or is a folder instead of a file.
    """
    for name in SIDES if config.format != "dataset" else ():
        location = getattr(config, name)
        if location is not None:
            existing(location, name, is_folder=config.format == "folder")


def existing(location: str, name: SideName, *, is_folder: bool) -> Path:
    path = resolve(location)
    if is_folder and not path.is_dir():
        raise DataError(f"data.{name}: there is no folder {location}")
    if not is_folder and path.is_dir():
        raise DataError(
            f"data.{name}: {location} is a folder; name the file in it, or set format: folder if "
            "it has a folder for each class"
        )
    if not path.exists():
        raise DataError(f"data.{name}: there is no file {location}")
    return path


def file_rows(config: DataConfig, path: Path, fields: Fields) -> Iterator[Row]:
    """Yield the rows of a JSON, CSV or Parquet file.

    Raises:
        DataError: The file cannot be read, or a row lacks a field.
    """
    shown = printable(str(path))
    columns = partial(_columns, fields, shown)
    values: Iterator[Value | BrokenRecord]
    if config.format == "csv":
        dialect = Dialect(config.delimiter, config.quoting)
        values = csv_values(str(path), columns, dialect, Decoding(config.encoding))
    elif config.format == "parquet":
        values = parquet_values(str(path), lambda schema: columns(schema.names))
    else:
        values = json_values(str(path), Decoding(config.encoding))
    try:
        for value in values:
            if isinstance(value, BrokenRecord):
                raise DataError(f"{shown}{value.position}: {value.message}")
            yield _row(value, fields, printable(path.name), shown)
    except FileLeftOut as error:
        raise DataError(f"{shown}: {error.detail}") from error


def _columns(fields: Fields, where: str, names: Sequence[str]) -> list[str]:
    """Return the columns to read, and refuse data that lacks one of them."""
    for key, field in fields:
        if field not in names:
            close = difflib.get_close_matches(field, names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(
                f"data.{key}: {where} has no field '{field}'; it has: {listed(names)}{hint}"
            )
    return list(dict.fromkeys(field for _, field in fields))


def _row(value: Value, fields: Fields, name: str, shown: str) -> Row:
    where = f"{shown}{value.where}"
    if not isinstance(value.content, dict):
        raise DataError(f"{where}: an object is needed, not {kind_of(value.content)}")
    _columns(fields, where, list(value.content))
    return Row(value.content, f"{name}{value.position}", where)


def dataset_rows(
    config: DataConfig, split: str, fields: Fields
) -> tuple[list[Row], list[str] | None]:
    """Read the rows of a split of a dataset.

    Args:
        config: The section `data`, as `at_one_state` returns it.
        split: The name of the split.
        fields: The fields to read.

    Returns:
        The rows, and the names of all labels if the dataset has numbers for them. The rows have
        names instead of the numbers, and None for a number without a name (a hidden label).

    Raises:
        DataError: A field does not exist.
        MlmtuneError: See `hub_datasets.locate`.
    """
    source, label_field = _source(config, split), fields[-1][1]
    shown = f"{config.dataset}, {split}"
    names: list[str] | None = None

    def columns(dataset: Any) -> list[str]:
        nonlocal names
        feature = (dataset.features or {}).get(label_field)
        feature = getattr(feature, "feature", feature)  # that of the items of a list
        names = getattr(feature, "names", None)  # a ClassLabel has them
        return _columns(fields, shown, hub_datasets.column_names(dataset))

    rows = []
    # Quiet, because at_one_state() has reported where the dataset comes from.
    dataset = hub_datasets.locate(source, "data", lambda _: None)
    for value in hub_datasets.dataset_values(source, dataset, columns):
        if names is not None:
            value.content[label_field] = _named(value.content[label_field], names)
        rows.append(_row(value, fields, split, shown))
    return rows, names


def _named(value: Any, names: Sequence[str]) -> Any:
    """Return the name of a numbered label, or a list of names for a list of labels."""
    if isinstance(value, list):
        return [_named(number, names) for number in value]
    return names[value] if value is not None and 0 <= value < len(names) else None


def _source(config: DataConfig, split: str) -> SourceConfig:
    return SourceConfig(
        format="dataset",
        dataset=config.dataset,
        dataset_config=config.dataset_config,
        revision=config.revision,
        split=split,
    )
