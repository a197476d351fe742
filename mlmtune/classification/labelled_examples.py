"""Labelled examples out of files, folders and datasets, as they stand there."""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mlmtune.config import DataConfig, SourceConfig
from mlmtune.corpus import hub_datasets
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.formats.csv import Dialect, csv_values
from mlmtune.corpus.formats.json import json_values
from mlmtune.corpus.formats.parquet import parquet_values
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, Value, kind_of, listed
from mlmtune.errors import DataError
from mlmtune.locations import resolve
from mlmtune.printable import printable

SideName = Literal["train", "validation", "test"]
SIDES: tuple[SideName, ...] = ("train", "validation", "test")

MOST_PLACES_NAMED = 3
"""Of the examples at fault; the others are counted."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example.

    Attributes:
        texts: one, or the two of a pair; none is blank.
        label: as a name, whatever its type was.
        name: Identifies the example (`train.csv#17`, `pos/cv000.txt`).
        where: names it in an error (`data/train.csv:18`).
    """

    texts: tuple[str, ...]
    label: str
    name: str
    where: str


@dataclass(frozen=True)
class ReadSide:
    """The examples of one side.

    Attributes:
        examples: in their order.
        label_order: the order of the labels where the data has one.
    """

    examples: list[Example]
    label_order: Sequence[str] | None = None


def at_one_state(config: DataConfig, say: Callable[[str], None]) -> DataConfig:
    """The same at one commit, if it is a dataset of the hub, so that its splits belong together.

    Args:
        config: the section `data`.
        say: told in one line where the dataset comes from.

    Raises:
        MlmtuneError: see `hub_datasets.locate`.
    """
    if config.format != "dataset":
        return config
    found = hub_datasets.locate(_source(config, config.train), "data", say)
    is_folder = found.num_bytes is not None
    return config if is_folder else config.model_copy(update={"revision": found.signature})


def read_side(config: DataConfig, name: SideName) -> ReadSide:
    """All examples of a side that the config names.

    Args:
        config: of `at_one_state`.
        name: which; the config has a value for it.

    Raises:
        DataError: it is not there or cannot be read, it has no such field, or an example has no
            text or no label.
        MlmtuneError: the dataset cannot be had.
    """
    location = getattr(config, name)
    if config.format == "dataset":
        side = _read_dataset(config, location)
    elif config.format == "folder":
        side = ReadSide(
            _checked(_folder_examples(config, _existing(location, name, is_folder=True)))
        )
    else:
        path = _existing(location, name, is_folder=False)
        side = ReadSide(_checked(_file_examples(config, path)))
    if not side.examples:
        raise DataError(f"data.{name}: {location} holds no examples")
    return side


def check_paths(config: DataConfig) -> None:
    """Refuse files and folders of examples that do not exist, before anything is read.

    Raises:
        DataError: one does not exist, or is a folder where a file should be.
    """
    for name in SIDES if config.format != "dataset" else ():
        location = getattr(config, name)
        if location is not None:
            _existing(location, name, is_folder=config.format == "folder")


def _existing(location: str, name: SideName, *, is_folder: bool) -> Path:
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


def _checked(examples: Iterable[Example]) -> list[Example]:
    """All examples, none with a blank text."""
    read = list(examples)
    blank = [example.where for example in read if not all(map(str.strip, example.texts))]
    if blank:
        more = f" and {len(blank) - MOST_PLACES_NAMED:,} more" * (len(blank) > MOST_PLACES_NAMED)
        one = len(blank) == 1
        raise DataError(
            f"{', '.join(blank[:MOST_PLACES_NAMED])}{more}: the text is empty; fix or remove "
            f"{'the example' if one else f'these {len(blank):,} examples'}"
        )
    return read


# ----------------------------------------------------------------------------------------- files


def _file_examples(config: DataConfig, path: Path) -> Iterator[Example]:
    shown = printable(str(path))
    columns = partial(_columns, config, shown)
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
                raise DataError(f"{shown}{value.place}: {value.message}")
            yield _example(config, value, printable(path.name), shown)
    except FileLeftOut as error:
        raise DataError(f"{shown}: {error.detail}") from error


def _columns(config: DataConfig, where: str, there: Sequence[str]) -> list[str]:
    """The columns that are read.

    Raises:
        DataError: one is not there.
    """
    for key, field in _fields(config):
        if field not in there:
            close = difflib.get_close_matches(field, there, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(
                f"data.{key}: {where} has no field '{field}'; it has: {listed(there)}{hint}"
            )
    return list(dict.fromkeys(field for _, field in _fields(config)))


def _fields(config: DataConfig) -> list[tuple[str, str]]:
    """(key of the config, field that it names) of each."""
    texts = [config.text_field] if isinstance(config.text_field, str) else config.text_field
    return [*(("text_field", field) for field in texts), ("label_field", config.label_field)]


def _example(config: DataConfig, value: Value, name: str, shown: str) -> Example:
    """An example out of a record.

    Raises:
        DataError: it lacks a field, or one is of the wrong type.
    """
    where = f"{shown}{value.where}"
    if not isinstance(value.content, dict):
        raise DataError(f"{where}: an object is needed, not {kind_of(value.content)}")
    _columns(config, where, list(value.content))
    texts = []
    for key, field in _fields(config)[:-1]:
        text = value.content[field]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{where}: '{field}' is {kind_of(text)}, not a string (set data.{key} to another "
                "field)"
            )
        texts.append(text or "")
    label = _label_name(value.content[config.label_field])
    if label is None:
        given = value.content[config.label_field]
        fault = (
            "has no label"
            if given is None or isinstance(given, str)
            else f"'{config.label_field}' is {kind_of(given)}: a label is a string or whole number"
        )
        raise DataError(f"{where}: {fault}; fix or remove the example")
    return Example(tuple(texts), label, f"{name}{value.place}", where)


def _label_name(value: Any) -> str | None:
    """A label as a name; None if it is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers in which one is missing
    if isinstance(value, int):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else None


def _folder_examples(config: DataConfig, root: Path) -> Iterator[Example]:
    """A folder below `root` for each class, a text file for each example."""
    endings = format_of("text").file_endings
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            continue
        for directory, inner, files in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for file in sorted(files):
                if file.startswith(".") or not file.lower().endswith(endings):
                    continue
                path = Path(directory, file)
                try:
                    text = read_text(str(path), decoding=Decoding(config.encoding))
                except FileLeftOut as error:
                    if error.reason != "empty":
                        raise DataError(f"{printable(str(path))}: {error.detail}") from error
                    text = ""
                name = printable(path.relative_to(root).as_posix())
                yield Example((text,), printable(folder.name), name, printable(str(path)))


# -------------------------------------------------------------------------------------- datasets


def _source(config: DataConfig, split: str) -> SourceConfig:
    return SourceConfig(
        format="dataset",
        dataset=config.dataset,
        dataset_config=config.dataset_config,
        revision=config.revision,
        split=split,
    )


def _read_dataset(config: DataConfig, split: str) -> ReadSide:
    source = _source(config, split)
    shown = f"{config.dataset}, {split}"
    names: list[str] | None = None

    def columns(dataset: Any) -> list[str]:
        nonlocal names
        feature = (dataset.features or {}).get(config.label_field)
        names = getattr(feature, "names", None)  # a ClassLabel has them
        return _columns(config, shown, hub_datasets.column_names(dataset))

    def examples() -> Iterator[Example]:
        found = hub_datasets.locate(source, "data", lambda _: None)
        for value in hub_datasets.dataset_values(source, found, columns):
            if names is not None:
                number = value.content[config.label_field]
                known = number is not None and 0 <= number < len(names)
                value.content[config.label_field] = names[number] if known else None
            yield _example(config, value, split, shown)

    return ReadSide(_checked(examples()), names)
