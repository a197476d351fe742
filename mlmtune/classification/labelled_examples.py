"""Reading labelled examples from files, folders and datasets."""

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
"""How many faulty examples an error names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example.

    Attributes:
        texts: One text, or the two of a pair; none is blank.
        label: The label as a string, whatever type it has in the data.
        name: The name of the example for people (`train.csv#17`, `pos/cv000.txt`).
        where: Its place for an error (`data/train.csv:18`).
    """

    texts: tuple[str, ...]
    label: str
    name: str
    where: str


@dataclass(frozen=True)
class ReadSide:
    """The examples of one side.

    Attributes:
        label_order: All labels in their order, if the data defines one.
    """

    examples: list[Example]
    label_order: Sequence[str] | None = None


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


def read_side(config: DataConfig, name: SideName) -> ReadSide:
    """Read all examples of a side that the config names.

    Args:
        config: The section `data`, as `at_one_state` returns it.
        name: A side for which the config has a value.

    Raises:
        DataError: The data does not exist or cannot be read, lacks a field, or an example has no
            text or no label.
        MlmtuneError: See `hub_datasets.locate`.
    """
    location = getattr(config, name)
    if config.format == "dataset":
        side = _read_dataset(config, location)
    else:
        is_folder = config.format == "folder"
        examples = _folder_examples if is_folder else _file_examples
        path = _existing(location, name, is_folder=is_folder)
        side = ReadSide(_checked(examples(config, path)))
    if not side.examples:
        raise DataError(f"data.{name}: {location} holds no examples")
    return side


def check_paths(config: DataConfig) -> None:
    """Check that files and folders of examples exist, before anything is read.

    Raises:
        DataError: One does not exist, or is a folder instead of a file.
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
    """Return the examples as a list, and refuse blank texts."""
    checked = list(examples)
    blank = [example.where for example in checked if not all(map(str.strip, example.texts))]
    if blank:
        more = f" and {len(blank) - MOST_PLACES_NAMED:,} more" * (len(blank) > MOST_PLACES_NAMED)
        faulty = "the example" if len(blank) == 1 else f"these {len(blank):,} examples"
        raise DataError(
            f"{', '.join(blank[:MOST_PLACES_NAMED])}{more}: the text is empty; fix or remove "
            f"{faulty}"
        )
    return checked


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
                raise DataError(f"{shown}{value.position}: {value.message}")
            yield _example(config, value, printable(path.name), shown)
    except FileLeftOut as error:
        raise DataError(f"{shown}: {error.detail}") from error


def _columns(config: DataConfig, where: str, names: Sequence[str]) -> list[str]:
    """Return the columns to read, and refuse data that lacks one of them."""
    for key, field in _fields(config):
        if field not in names:
            close = difflib.get_close_matches(field, names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(
                f"data.{key}: {where} has no field '{field}'; it has: {listed(names)}{hint}"
            )
    return list(dict.fromkeys(field for _, field in _fields(config)))


def _fields(config: DataConfig) -> list[tuple[str, str]]:
    """Return (key of the config, field of the data) for each field; the label comes last."""
    texts = [config.text_field] if isinstance(config.text_field, str) else config.text_field
    return [*(("text_field", field) for field in texts), ("label_field", config.label_field)]


def _example(config: DataConfig, value: Value, name: str, shown: str) -> Example:
    """Make an example of a record, and refuse fields that are missing or of the wrong type."""
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
    given = value.content[config.label_field]
    label = _label_name(given)
    if label is None:
        fault = "has no label"
        if given is not None and not isinstance(given, str):
            kind = kind_of(given)
            fault = f"'{config.label_field}' is {kind}: a label is a string or whole number"
        raise DataError(f"{where}: {fault}; fix or remove the example")
    return Example(tuple(texts), label, f"{name}{value.position}", where)


def _label_name(value: Any) -> str | None:
    """Return a label as a string; None if the value cannot be a label."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers is read as floats if one is missing
    if isinstance(value, int):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else None


def _folder_examples(config: DataConfig, root: Path) -> Iterator[Example]:
    """Read a folder in `root` for each label, with a text file for each example."""
    endings = format_of("text").file_endings
    # Sorted, because the order of a file system's entries differs from machine to machine.
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
        # Quiet, because at_one_state() has reported where the dataset comes from.
        dataset = hub_datasets.locate(source, "data", lambda _: None)
        for value in hub_datasets.dataset_values(source, dataset, columns):
            if names is not None:
                number = value.content[config.label_field]
                is_known = number is not None and 0 <= number < len(names)
                value.content[config.label_field] = names[number] if is_known else None
            yield _example(config, value, split, shown)

    return ReadSide(_checked(examples()), names)
