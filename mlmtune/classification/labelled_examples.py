"""Reading labelled texts from files, folders and datasets."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mlmtune.classification.rows import (
    Fields,
    Row,
    SideName,
    dataset_rows,
    existing,
    file_rows,
)
from mlmtune.config import DataConfig
from mlmtune.corpus.decoding import read_text
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.records import FileLeftOut, kind_of
from mlmtune.errors import DataError
from mlmtune.printable import printable

MOST_PLACES_NAMED = 3
"""How many faulty examples an error names; the others are counted."""

ExampleT = TypeVar("ExampleT")


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

    @property
    def content(self) -> tuple[tuple[str, ...], str]:
        return self.texts, self.label


@dataclass(frozen=True)
class ReadSide(Generic[ExampleT]):
    """The examples of one side.

    Attributes:
        label_order: All labels in their order, if the data defines one.
    """

    examples: list[ExampleT]
    label_order: Sequence[str] | None = None


def read_side(config: DataConfig, name: SideName) -> ReadSide[Example]:
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
        rows, names = dataset_rows(config, location, _fields(config))
        side = ReadSide(_checked(_example(config, row) for row in rows), names)
    else:
        is_folder = config.format == "folder"
        path = existing(location, name, is_folder=is_folder)
        if is_folder:
            side = ReadSide(_checked(_folder_examples(config, path)))
        else:
            rows_of_file = file_rows(config, path, _fields(config))
            side = ReadSide(_checked(_example(config, row) for row in rows_of_file))
    if not side.examples:
        raise DataError(f"data.{name}: {location} holds no examples")
    return side


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


def _fields(config: DataConfig) -> Fields:
    given = config.text_field or "text"
    texts = [given] if isinstance(given, str) else given
    label_field = config.label_field or "label"
    return [*(("text_field", field) for field in texts), ("label_field", label_field)]


def _example(config: DataConfig, row: Row) -> Example:
    """Make an example of a row, and refuse fields of the wrong type."""
    *text_fields, (_, label_field) = _fields(config)
    texts = []
    for key, field in text_fields:
        text = row.fields[field]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{row.where}: '{field}' is {kind_of(text)}, not a string (set data.{key} to "
                "another field)"
            )
        texts.append(text or "")
    given = row.fields[label_field]
    label = _label_name(given)
    if label is None:
        fault = "has no label"
        if given is not None and not isinstance(given, str):
            fault = f"'{label_field}' is {kind_of(given)}: a label is a string or whole number"
        raise DataError(f"{row.where}: {fault}; fix or remove the example")
    return Example(tuple(texts), label, row.name, row.where)


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
