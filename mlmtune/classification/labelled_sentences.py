"""Reading sentences whose tokens have tags, from files and datasets, with the tags in IOB2."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlmtune.classification.labelled_examples import ReadSide
from mlmtune.classification.rows import Fields, Row, SideName, dataset_rows, existing, file_rows
from mlmtune.classification.tags import OUTSIDE, SCHEMES, Tags, scheme_of, split_tag, to_iob2
from mlmtune.config import DataConfig
from mlmtune.corpus.decoding import iter_lines
from mlmtune.corpus.encodings import Decoding
from mlmtune.corpus.records import BrokenRecord, FileLeftOut, kind_of, listed
from mlmtune.errors import DataError
from mlmtune.printable import counted, printable

DOCUMENT_START = "-DOCSTART-"
"""The token of a line that parts documents in CoNLL files."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence.

    Attributes:
        tokens: Its tokens; none is blank.
        tags: The tag of each token.
        name: The name of the sentence for people (`train.jsonl#17`).
        where: Its place for an error (`data/train.jsonl:17`).
        line: The line of the first token in a file that has a line for each token.
    """

    tokens: tuple[str, ...]
    tags: Tags
    name: str
    where: str
    line: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (" ".join(self.tokens),)

    @property
    def label(self) -> str:
        """What is drawn in equal shares: sentences with entities, and those without."""
        return OUTSIDE if set(self.tags) <= {OUTSIDE} else "entities"

    @property
    def content(self) -> tuple[tuple[str, ...], Tags]:
        return self.tokens, self.tags

    def where_token(self, place: int) -> str:
        """Return the place of a token for an error."""
        if self.line is not None:
            return f"{self.where}:{self.line + place}"
        return f"{self.where}, token {place + 1}"


def read_sentences(config: DataConfig, name: SideName, notes: list[str]) -> ReadSide[Sentence]:
    """Read all sentences of a side that the config names, and write their tags in IOB2.

    Args:
        config: The section `data`, as `rows.at_one_state` returns it.
        name: A side for which the config has a value.
        notes: Receives a line if tags were rewritten.

    Raises:
        DataError: The data does not exist or cannot be read, lacks a field or a column, or has
            something else than one tag for each token.
        MlmtuneError: See `hub_datasets.locate`.
    """
    location = getattr(config, name)
    order: list[str] | None = None
    if config.format == "dataset":
        rows, order = dataset_rows(config, location, _fields(config))
        sentences = [_sentence(config, row) for row in rows]
    else:
        path = existing(location, name, is_folder=False)
        if config.format == "conll":
            sentences = list(_conll_sentences(config, path))
        else:
            sentences = [_sentence(config, row) for row in file_rows(config, path, _fields(config))]
    if not sentences:
        raise DataError(f"data.{name}: {location} holds no sentences")
    if all(token.isdecimal() for sentence in sentences for token in sentence.tokens):
        key = "data.token_column" if config.format == "conll" else "data.text_field"
        raise DataError(
            f"{sentences[0].where_token(0)}: all tokens are numbers, such as those of lines; set "
            f"{key} if the tokens are elsewhere"
        )
    return ReadSide(_in_iob2(config, name, sentences, notes), order)


# ------------------------------------------------------------------------------------------ rows


def _fields(config: DataConfig) -> Fields:
    assert not isinstance(config.text_field, list)  # which the config refuses
    return [
        ("text_field", config.text_field or "tokens"),
        ("label_field", config.label_field or "tags"),
    ]


def _sentence(config: DataConfig, row: Row) -> Sentence:
    """Make a sentence of a row, and refuse fields that are not lists of strings."""
    (_, tokens_field), (_, tags_field) = _fields(config)
    tokens, tags = (_strings(row, key, field) for key, field in _fields(config))
    if not tokens:
        raise DataError(f"{row.where}: '{tokens_field}' is empty; fix or remove the sentence")
    if len(tokens) != len(tags):
        raise DataError(
            f"{row.where}: {counted(len(tokens), 'token')} in '{tokens_field}' and "
            f"{counted(len(tags), 'tag')} in '{tags_field}'; each token needs one tag"
        )
    for place, token in enumerate(tokens, start=1):
        if not token.strip():
            raise DataError(f"{row.where}, token {place}: the token is empty; fix or remove it")
    return Sentence(tokens, tags, row.name, row.where)


def _strings(row: Row, key: str, field: str) -> tuple[str, ...]:
    values: Any = row.fields[field]
    if not isinstance(values, list):
        raise DataError(
            f"{row.where}: '{field}' is {kind_of(values)}, not a list of strings (set data.{key} "
            "to another field)"
        )
    for place, value in enumerate(values, start=1):
        if not isinstance(value, str):
            hint = "; write the names of the tags" if key == "label_field" else ""
            raise DataError(
                f"{row.where}: item {place} of '{field}' is {kind_of(value)}, not a string{hint}"
            )
    return tuple(values)


# ----------------------------------------------------------------------------------------- CoNLL


def _conll_sentences(config: DataConfig, path: Path) -> Iterator[Sentence]:
    """Yield the sentences of a file with a line for each token.

    Columns are separated by tabs if the first line with a token has one, else by white space.
    """
    shown = printable(str(path))
    number, begin = 0, 0
    tokens: list[tuple[str, str]] = []
    columns = _Columns(config, shown)
    try:
        for line_number, line in iter_lines(str(path), None, Decoding(config.encoding)):
            if isinstance(line, BrokenRecord):
                raise DataError(f"{shown}{line.position}: {line.message}")
            parts = columns.split(line_number, line, is_first=not tokens)
            if parts is not None:
                begin = begin if tokens else line_number
                tokens.append(parts)
            elif tokens:
                number += 1
                yield _of_lines(tokens, f"{printable(path.name)}#{number}", shown, begin)
                tokens = []
    except FileLeftOut as error:
        if error.reason != "empty":
            raise DataError(f"{shown}: {error.detail}") from error
    if tokens:
        yield _of_lines(tokens, f"{printable(path.name)}#{number + 1}", shown, begin)


def _of_lines(tokens: Sequence[tuple[str, str]], name: str, shown: str, line: int) -> Sentence:
    return Sentence(
        tuple(token for token, _ in tokens), tuple(tag for _, tag in tokens), name, shown, line
    )


class _Columns:
    """Splits the lines of one file, all of which have as many columns as the first one."""

    def __init__(self, config: DataConfig, shown: str) -> None:
        self._token, self._tag = config.token_column, config.tag_column
        self._shown = shown
        self._separator: str | None = None
        self._first: tuple[int, int] | None = None  # its number, and its number of columns

    def split(self, number: int, line: str, *, is_first: bool) -> tuple[str, str] | None:
        """Return the token and the tag of a line; None for one that parts sentences.

        `is_first` is whether the line would begin a sentence, where a comment may be.
        """
        if not line.strip() or line.startswith(DOCUMENT_START):
            return None
        if self._first is None and "\t" in line:
            self._separator = "\t"
        parts = [part.strip() for part in line.rstrip("\r\n").split(self._separator)]
        tag_place = (self._tag or len(parts)) - 1
        # `# id 3` is a comment, and `# O` is the token #.
        if is_first and line.startswith("# ") and split_tag("".join(parts[tag_place:][:1])) is None:
            return None
        where = f"{self._shown}:{number}"
        if self._first is None:
            self._first = number, len(parts)
            self._check_numbers(where, len(parts))
        if len(parts) != self._first[1]:
            raise DataError(
                f"{where}: {counted(len(parts), 'column')}, but line {self._first[0]:,} has "
                f"{self._first[1]}; fix the line"
            )
        token, tag = parts[self._token - 1], parts[tag_place]
        if not token:
            raise DataError(f"{where}: the token is empty; fix or remove the line")
        return token, tag

    def _check_numbers(self, where: str, num_columns: int) -> None:
        for key, column in (("token_column", self._token), ("tag_column", self._tag or 1)):
            if column > num_columns:
                raise DataError(
                    f"data.{key} is {column}, but {where} has {counted(num_columns, 'column')}"
                )
        if num_columns == 1:
            raise DataError(
                f"{where}: a single column; a line has a token and its tag, with a tab or a space "
                "between them"
            )
        if (self._tag or num_columns) == self._token:
            raise DataError(
                f"{where}: column {self._token} would be both the token and its tag; set "
                "data.token_column or data.tag_column"
            )


# ------------------------------------------------------------------------------------------ tags


def _in_iob2(
    config: DataConfig, name: SideName, sentences: list[Sentence], notes: list[str]
) -> list[Sentence]:
    """Return the sentences with tags in IOB2, and refuse what is not a tag."""
    places: dict[str, tuple[Sentence, int]] = {}  # of the first tag with each prefix
    for sentence in sentences:
        for place, tag in enumerate(sentence.tags):
            parts = split_tag(tag)
            if parts is None:
                key = "data.tag_column" if config.format == "conll" else "data.label_field"
                hint = (
                    ", or remove the line if it is a header"
                    if (sentence.line, place) == (1, 0)
                    else ""
                )
                raise DataError(
                    f"{sentence.where_token(place)}: '{printable(tag)}' is not a tag such as O, "
                    f"B-PER or I-PER; fix it, or set {key} if the tags are elsewhere{hint}"
                )
            places.setdefault(parts[0], (sentence, place))
    scheme = scheme_of(places)
    if scheme is None:
        prefixes = list(places)
        first = next(n for n in range(len(prefixes)) if scheme_of(prefixes[: n + 1]) is None)
        sentence, place = places[prefixes[first]]
        raise DataError(
            f"{sentence.where_token(place)}: '{sentence.tags[place]}' belongs to another scheme "
            f"than earlier tags, which begin with {listed(sorted(filter(None, prefixes[:first])))}"
            f"; the schemes are IOB1 and {listed(list(SCHEMES))}"
        )
    result = to_iob2([sentence.tags for sentence in sentences], scheme)
    if result.faults:
        number, place = result.faults[0]
        sentence = sentences[number]
        notes.append(
            f"{name}: {counted(len(result.faults), 'tag')} of {_num_tags(sentences):,} "
            f"{'breaks' if len(result.faults) == 1 else 'break'} {result.scheme} "
            f"(first {sentence.where_token(place)}: '{sentence.tags[place]}' after "
            f"'{sentence.tags[place - 1] if place else 'the beginning'}'); each entity is read as "
            "conlleval reads it, and written in IOB2"
        )
    elif result.scheme != "IOB2":
        notes.append(
            f"{name}: the tags are {result.scheme}; {result.num_rewritten:,} of "
            f"{_num_tags(sentences):,} are rewritten to IOB2, which marks the same entities"
        )
    return [replace(s, tags=tags) for s, tags in zip(sentences, result.tags, strict=True)]


def _num_tags(sentences: Sequence[Sentence]) -> int:
    return sum(len(sentence.tags) for sentence in sentences)
