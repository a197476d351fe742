"""Formats: a module for each, named as the format, whose `FORMAT` is all that is known about it.

A reader yields the text as it is in the file; cleaning comes later. It yields a `BrokenRecord` for
a record that cannot be read, so that the other records are not lost. A dataset is not a file, and
is read by `mlmtune.corpus.hub_datasets`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import getsource
from typing import Literal, get_args

from mlmtune.config import ADDED_FORMATS, FormatName, SourceConfig
from mlmtune.corpus.compression import COMPRESSIONS
from mlmtune.corpus.decoding import Span
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.records import Record
from mlmtune.errors import ConfigError
from mlmtune.shell import pip_install

Reader = Callable[[str, SourceConfig, Decoding], Iterator[Record]]
"""(path, its source, its decoding) -> records; raises `FileLeftOut` if the file cannot be read."""

SpanReader = Callable[[str, SourceConfig, Decoding, Span | None], Iterator[Record]]
"""The same, for the lines of a file that begin in a span."""


@dataclass(frozen=True)
class Format:
    """How the files of a source are found and read.

    Attributes:
        read: Yields the records of a file.
        endings: The usual endings of its files, without those of a compression.
        is_compressed_within: Whether its files hold compressed data, so that nobody compresses
            them again.
        is_plain_text: Whether every character of a file becomes text, so that a file of another
            kind would be misread.
        markup: The markup of the text, unless the source names another.
        is_by_lines: Whether each line of a document is a sentence.
        read_span: Yields the records of some lines of a file; None if lines are not records.
        line_endings: The endings of the files that `read_span` can read.
        needs: The modules of the extra `documents` that reading needs.
        version: Changes with what an added format yields; its text is then read again.
    """

    read: Reader
    endings: tuple[str, ...]
    is_compressed_within: bool = False
    is_plain_text: bool = False
    markup: Literal["markdown", "html", "none"] = "none"
    is_by_lines: bool = False
    read_span: SpanReader | None = None
    line_endings: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    version: str = ""

    @property
    def file_endings(self) -> tuple[str, ...]:
        """The endings that are read below a folder: its own, and each with a compression."""
        compressions = () if self.is_compressed_within else COMPRESSIONS
        return tuple(
            ending + compression for compression in ("", *compressions) for ending in self.endings
        )

    def has_lines(self, path: str) -> bool:
        """Whether each line of a file is a record, so that `read_span` can read it."""
        return path.lower().endswith(self.line_endings)


_ADDED: dict[str, Format] = {}


def add_format(name: str, added: Format) -> None:
    """Add a format to this process, for `corpus.sources.format`.

    Its files are read in this process alone. If the source code of `read` changes, they are read
    again; give `version` if it calls functions of yours that may change.

    Args:
        name: The name in configs.
        added: The format; `endings` are those of its files, such as `(".wiki",)`.

    Raises:
        ConfigError: mlmtune has a format of this name.
    """
    if name in get_args(FormatName):
        raise ConfigError(f"mlmtune has a format {name!r} already; choose another name")
    _ADDED[name] = replace(added, version=f"{added.version}\0{getsource(added.read)}")
    ADDED_FORMATS.add(name)


def format_of(name: FormatName) -> Format:
    """Return a format by its name in configs."""
    return _ADDED[name] if name in _ADDED else _shipped(name)


@cache
def _shipped(name: FormatName) -> Format:
    format_: Format = import_module(f"{__name__}.{name}").FORMAT
    return format_


def check_available(name: FormatName) -> None:
    """Refuse a format whose extra is missing.

    Raises:
        ConfigError: A module that it needs is not installed.
    """
    missing = [module for module in format_of(name).needs if find_spec(module) is None]
    if missing:
        command = pip_install("mlmtune[documents]")
        raise ConfigError(f"format: {name} needs {', '.join(missing)}; {command}")
