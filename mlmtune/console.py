"""What a person sees while something goes on: lines, and bars on a terminal."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from mlmtune.printable import printable_text, shown_width
from mlmtune.redaction import without_secrets
from mlmtune.shell import holds_command

T = TypeVar("T")

_GAP = re.compile(r"\S {2,}\S")
"""Between the columns of a table."""


class Console:
    """Prints for the main process; silent in the others.

    Args:
        is_main: whether this process prints at all.
        is_quiet: leave out everything but what `result` prints.
        shows_lines: whether anything but bars is shown.
        notes_to_stderr: what `say` prints stands beside the result, not in it.
    """

    def __init__(
        self,
        *,
        is_main: bool = True,
        is_quiet: bool = False,
        shows_lines: bool = True,
        notes_to_stderr: bool = False,
    ) -> None:
        self._speaks = is_main and not is_quiet
        self._shows_lines = shows_lines
        self._is_main = is_main
        self._notes_to_stderr = notes_to_stderr

    @property
    def shows_bars(self) -> bool:
        """Whether bars are seen: on a terminal, unless it is to be quiet."""
        return self._speaks and sys.stderr.isatty()

    def say(self, line: str) -> None:
        """Print a line, above a bar if there is one."""
        if self._speaks and self._shows_lines:
            self._print(line, sys.stderr if self._notes_to_stderr else sys.stdout)

    def result(self, line: str) -> None:
        """Print a line of the result, quiet or not."""
        if self._is_main and self._shows_lines:
            self._print(line, sys.stdout)

    def bar(self, *, total: int, unit: str, initial: int = 0, what: str = "") -> "tqdm[Any]":
        """A bar on standard error where that is a terminal; else one that shows nothing."""
        return tqdm(
            total=total, initial=initial, unit=unit, desc=what or None, dynamic_ncols=True,
            unit_scale=unit == "B", disable=not self.shows_bars,
        )  # fmt: skip

    def counted(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterator[T]:
        """The items, under a bar that goes away once all have passed."""
        with self.bar(total=total, unit=unit, what=what) as bar:
            bar.leave = False
            for item in items:
                yield item
                bar.update()

    def _print(self, line: str, stream: Any) -> None:
        text = printable_text(without_secrets(line), keeps_colours=shows_colours())
        tqdm.write(for_stream(text, stream), file=stream)
        stream.flush()


def for_stream(text: str, stream: TextIO) -> str:
    """Prose as a terminal shows it without breaking a word; other streams get it as it is."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    """A line of prose in lines of at most `width`; tables and commands stay in one."""
    name, indent = re.match(r"( *)(?:\S+ {2,})?", line), ""
    assert name is not None
    if shown_width(line) <= width or _GAP.search(line, name.end()) or holds_command(line):
        return line
    if name.end() < width / 2:
        indent = " " * name.end()
    first, *words = line[name.end() :].split(" ")
    rows = [name[0] + first]
    for word in words:
        if shown_width(rows[-1]) + 1 + shown_width(word) <= width:
            rows[-1] += f" {word}"
        else:
            rows.append(indent + word)
    return "\n".join(rows)


def shows_colours() -> bool:
    """Whether standard output is a terminal on which colours are wanted (https://no-color.org)."""
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def coloured(text: str, colour: str) -> str:
    """Return a text in a colour, given by its escape sequence, if colours are wanted."""
    return f"{colour}{text}\033[0m" if colour and text and shows_colours() else text
