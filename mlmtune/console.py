"""What a person sees while a command runs: lines, and progress bars on a terminal."""

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
"""The gap between two columns of a table."""


class Console:
    """Prints for the main process; silent in the others.

    Args:
        is_main: Whether this process prints at all.
        is_quiet: Whether only what `result` prints is shown.
        shows_lines: Whether anything but progress bars is shown.
        notes_to_stderr: Whether `say` prints to standard error, so that standard output has only
            the result.
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
        """Whether progress bars are visible: on a terminal or in a notebook, unless it is quiet."""
        return self._speaks and (sys.stderr.isatty() or _is_notebook())

    def say(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._speaks and self._shows_lines:
            self._print(line, sys.stderr if self._notes_to_stderr else sys.stdout)

    def result(self, line: str) -> None:
        """Print a line of the result, even if the console is quiet."""
        if self._is_main and self._shows_lines:
            self._print(line, sys.stdout)

    def bar(self, *, total: int, unit: str, initial: int = 0, what: str = "") -> "tqdm[Any]":
        """Return a progress bar on standard error; it is invisible unless that is a terminal."""
        return tqdm(
            total=total, initial=initial, unit=unit, desc=what or None, dynamic_ncols=True,
            unit_scale=unit == "B", disable=not self.shows_bars,
        )  # fmt: skip

    def under_bar(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterator[T]:
        """Yield the items under a progress bar that disappears at the end."""
        with self.bar(total=total, unit=unit, what=what) as bar:
            bar.leave = False
            for item in items:
                yield item
                bar.update()

    def _print(self, line: str, stream: Any) -> None:
        text = printable_text(without_secrets(line), keeps_colours=shows_colours())
        tqdm.write(for_stream(text, stream), file=stream)  # a plain print would break the bar
        stream.flush()  # a log file is read while the run goes on


def _is_notebook() -> bool:
    """Whether a notebook shows what this process prints; it knows how to redraw a line."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def for_stream(text: str, stream: TextIO) -> str:
    """Wrap prose between words for a terminal; return it unchanged for other streams."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    """Wrap a line of prose to at most `width`; a line of a table or with a command stays whole."""
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
