"""YAML for settings: plain values, each with its line, without YAML's traps.

PyYAML parses the syntax. What the text means is decided here, because YAML 1.1, which PyYAML
follows, surprises: `1e-5` is a string, `no` is False, and the second of two equal keys wins.
"""

import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 20
"""The deepest nesting that is read. Settings need 5; a hostile file could exhaust the stack."""

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, order=True)
class Origin:
    """Where a value was written. Problems are reported in the order of `rank`."""

    rank: int
    where: str


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, at one key."""

    origin: Origin
    key: str
    what: str

    def __str__(self) -> str:
        """Return one line: `FILE:LINE: section.key: what is wrong`."""
        return ": ".join(part for part in (self.origin.where, self.key, self.what) if part)


@dataclass
class YamlDocument:
    """A YAML text as plain values, with the origin of each and the problems of the text."""

    value: Any = None
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def origin_of(self, path: KeyPath) -> Origin:
        """Return the origin of `path`, or of the nearest section or list around it that has one."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def report(self, path: KeyPath, what: str, origin: Origin | None = None) -> None:
        """Add a problem at `path`, unless this origin and key have one already."""
        problem = Problem(origin or self.origin_of(path), dotted(path), what)
        if not any((p.origin, p.key) == (problem.origin, problem.key) for p in self.problems):
            self.problems.append(problem)

    def forget_origins_below(self, path: KeyPath) -> None:
        """Remove the origins of `path` and of everything below it."""
        for key in [key for key in self.origins if key[: len(path)] == path]:
            del self.origins[key]

    def move_below(self, path: KeyPath, part: str | int) -> None:
        """Note that the value at `path` has become the entry `part` of what is at `path` now."""
        for key, origin in list(self.origins.items()):
            if key[: len(path)] == path:
                if key != path:
                    del self.origins[key]
                self.origins[*path, part, *key[len(path) :]] = origin

    def has_problem_below(self, path: KeyPath) -> bool:
        """Whether a key of the section at `path` has a problem."""
        return any(problem.key.startswith(dotted(path) + ".") for problem in self.problems)

    def value_at(self, path: KeyPath) -> Any:
        """Return the value at a path that exists."""
        return functools.reduce(operator.getitem, path, self.value)


def dotted(path: KeyPath) -> str:
    """Return a path as messages write it: `corpus.sources.0`."""
    return ".".join(map(str, path))


def parse(text: str, origin_at: Callable[[int], Origin], path: KeyPath = ()) -> YamlDocument:
    """Read one YAML document; what is wrong with it is in the `problems` of the result.

    Args:
        text: The YAML. If its syntax is broken, the value of the result is None.
        origin_at: Returns the origin of a line, counted from 1.
        path: The path of the value, if it is part of a larger document.
    """
    document = YamlDocument(origins={path: origin_at(1)})
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        _Builder(document, events, origin_at).read(path)
    except (yaml.YAMLError, ValueError) as error:
        # PyYAML lets a ValueError escape for "\U00110000", a code point that does not exist.
        line, what = _syntax_problem(error, text)
        document.report(path, what, origin_at(line))
    return document


@dataclass(frozen=True)
class _Builder:
    """Turns PyYAML's events into values; events, because aliases in them are not expanded yet."""

    document: YamlDocument
    events: Iterator[yaml.Event]
    origin_at: Callable[[int], Origin]

    def read(self, path: KeyPath) -> None:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return
        self.document.value = self._value(next(self.events), path)
        next(self.events)  # the end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            origin = self.origin_at(_line(after))
            self.document.report(path, "a second YAML document begins here; keep one", origin)

    def _value(self, event: yaml.Event, path: KeyPath) -> Any:
        self.document.origins[path] = self.origin_at(_line(event))
        if len(path) > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
            what = (
                f"aliases and anchors ({mark}{event.anchor}) are not read; write the value out, or "
                f"put text that begins with {mark} in quotes"
            )
            self.document.report(path, what)
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            self.document.report(
                path, f"tags ({event.tag}) are not read; put text that begins with ! in quotes"
            )
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.style is None else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return None  # an alias, reported above

    def _list(self, path: KeyPath) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values))))
        return values

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        key_lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            origin = self.origin_at(line)
            if isinstance(event, yaml.ScalarEvent):
                key = event.value
            else:
                # Consumed like a value, so that the rest can be read; `{{name}}` ends up here.
                self._value(event, (*path, "?"))
                self.document.report(path, "a key must be a plain name", origin)
                key = "?"
            value = self._value(next(self.events), (*path, key))
            # Users look for a problem at the key, which may be a line above its value.
            self.document.origins[*path, key] = origin
            if key in values:
                self.document.report(
                    (*path, key), f"given twice, first on line {key_lines[key]}; remove one", origin
                )
            key_lines.setdefault(key, line)
            values[key] = value
        return values


def _scalar(text: str) -> Any:
    """Return an unquoted scalar by the core schema of YAML 1.2, without octal, hex, inf and nan."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    try:
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
    except ValueError:  # Python converts at most 4300 digits
        pass
    return text


def _line(event: yaml.Event) -> int:
    """Return the line that an event begins on, counted from 1."""
    return int(event.start_mark.line) + 1 if event.start_mark else 1


def _syntax_problem(error: Exception, text: str) -> tuple[int, str]:
    """Return the line (from 1) of a syntax error and its explanation."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return 1, f"not valid YAML: {error}"
    lines = text.splitlines() or [""]
    line = lines[min(mark.line, len(lines) - 1)]
    what = f"not valid YAML: {error.problem}"
    if "\t" in line[: mark.column + 1]:
        what = "a tab is not allowed here in YAML; replace it by spaces"
    elif re.match(r"[\s-]*(?:\w+:\s+)?[\[{]", line):
        what += "; text that begins with [ or { needs quotes"
    elif re.match(r"[\s-]*(?:\w+:\s+)?[*&!%@`]", line):
        what += f"; text that begins with {line.strip()[0]} needs quotes"
    elif "mapping values are not allowed" in what:
        what += "; check the indentation, and put text with a colon in quotes"
    return mark.line + 1, what


def replace_texts(text: str, replacement: Callable[[str], str]) -> str:
    """Return YAML with some texts replaced; comments and everything else stay as they are written.

    Args:
        text: The YAML; if its syntax is broken, it is returned unchanged.
        replacement: Called with each text that is a key or a value.
    """
    try:
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        return text
    for event in reversed(events):  # from the end, so that the positions of the others stay valid
        if isinstance(event, yaml.ScalarEvent) and event.start_mark and event.end_mark:
            new = replacement(event.value)
            if new != event.value:
                line_end = "\n" if event.style in ("|", ">") else ""
                quoted = json.dumps(new, ensure_ascii=False) + line_end
                text = text[: event.start_mark.index] + quoted + text[event.end_mark.index :]
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes each string that this module or a YAML 1.1 parser would read as another type."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write unusual line breaks (such as U+0085) as escapes; only so do they survive."""
        style = '"' if re.search("[\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key, as the shipped configs do."""
        super().increase_indent(flow, False)


_Dumper.add_representer(str, _Dumper.represent_text)
for _kind, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern.pattern})\Z"), None
    )


def dump(value: Any) -> str:
    """Return plain values as YAML that `parse` reads back, in the given order."""
    no_wrapping = 2**31 - 1
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=no_wrapping
    )
    return text
