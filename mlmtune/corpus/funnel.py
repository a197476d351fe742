"""The funnel: counts of what becomes of every file, document and character; they add up."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mlmtune.corpus.cleaning import STEPS

REASONS = (
    "broken",
    "empty",
    "too_short",
    "too_long",
    "few_letters",
    "other_language",
    "duplicate",
    "not_sampled",
    "overlap",
    "near_duplicate",
    "not_selected",
)
"""The reasons to leave a document out, in the order in which they are checked."""


@dataclass
class SourceFunnel:
    """The counts of one source, or of all sources together.

    Attributes:
        files_read: Files with documents.
        files_left_out: Files without documents, by reason: `empty`, `binary`, `undecodable`,
            `unreadable`, `vanished`, `too_large`, `encrypted`, `no_text`, `not_a_file`,
            `link_outside`, `link_broken`; in git repositories `link`, `submodule`, `lfs_pointer`,
            `unsafe_path`; and, if `corpus.on_error` is `skip`, `truncated`, `damaged`, `broken`.
        endings_not_read: Files in folders that are not read because of their ending, by ending.
        encodings: Files that were read, by encoding.
        encodings_guessed: Those of them that another encoding would fit as well.
        languages: Documents that are not empty, by the language that was recognised, or
            `undetermined`.
        documents_left_out: Documents by one of `REASONS`.
        characters_found: Characters of all documents before cleaning.
        cleaned_away: Characters by cleaning step.
        characters_left_out: Characters after cleaning, by one of `REASONS`.
    """

    files_read: int = 0
    files_left_out: Counter[str] = field(default_factory=Counter)
    endings_not_read: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    encodings_guessed: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    documents_kept: int = 0
    documents_left_out: Counter[str] = field(default_factory=Counter)
    characters_found: int = 0
    cleaned_away: Counter[str] = field(default_factory=Counter)
    characters_left_out: Counter[str] = field(default_factory=Counter)
    characters_kept: int = 0

    def add(self, other: "SourceFunnel") -> None:
        """Add another's counts to these."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> dict[str, Any]:
        """Return the counts for corpus.json; each `found` is the sum of the counts below it."""
        return {
            "files": {
                "found": self.files_read + self.files_left_out.total(),
                "read": self.files_read,
                "left_out": dict(sorted(self.files_left_out.items())),
                "endings_not_read": _by_count(self.endings_not_read),
                "encodings": _by_count(self.encodings),
                "encodings_guessed": _by_count(self.encodings_guessed),
            },
            "documents": {
                "found": self.documents_kept + self.documents_left_out.total(),
                "kept": self.documents_kept,
                "left_out": _in_order(self.documents_left_out, REASONS),
                "languages": _by_count(self.languages),
            },
            "characters": {
                "found": self.characters_found,
                "cleaned_away": _in_order(self.cleaned_away, STEPS),
                "left_out": _in_order(self.characters_left_out, REASONS),
                "kept": self.characters_kept,
            },
        }


def _in_order(counts: Counter[str], names: tuple[str, ...]) -> dict[str, int]:
    return {name: counts[name] for name in names if counts[name]}


def _by_count(counts: Counter[str]) -> dict[str, int]:
    # Equal counts are sorted by name, because folders are listed in no order.
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


class Pair(NamedTuple):
    """A document that is left out, and the one that it repeats.

    Attributes:
        document: The source and id of the one that is left out.
        repeats: The source and id of the other.
        similarity: 1.0 if they are equal.
    """

    document: str
    repeats: str
    similarity: float


class Overlap(NamedTuple):
    """The source and id of a document with text that must not be learned, and this text's words."""

    document: str
    words: str


class Scored(NamedTuple):
    """The source and id of a document, and how much it is like a domain (nats per n-gram)."""

    document: str
    score: float


class Selected(NamedTuple):
    """What `select` of a source kept.

    Attributes:
        source: The source.
        like: The source that is its domain.
        num_kept: The number of documents that are kept.
        num_left_out: The number of the others.
        num_alike: The number of documents, kept or not, that have a positive score: their n-grams
            are more frequent in the domain than in the source.
        lowest_kept: The lowest score that is kept.
        domain_median: The median score of the domain's own documents.
        most_alike: The documents with the highest scores, the highest first.
        least_alike: The documents with the lowest scores, the lowest first.
    """

    source: str
    like: str
    num_kept: int
    num_left_out: int
    num_alike: int
    lowest_kept: float
    domain_median: float
    most_alike: list[Scored]
    least_alike: list[Scored]

    def to_json(self) -> dict[str, Any]:
        """Return the fields by their names, the documents as objects."""
        named = {
            key: [scored._asdict() for scored in getattr(self, key)]
            for key in ("most_alike", "least_alike")
        }
        return self._asdict() | named


@dataclass
class Funnel:
    """The counts of a corpus, with examples.

    Attributes:
        sources: The counts of each source, by its name.
        files_left_out: Path, reason and detail of the first files.
        guesses: Path and guessed encoding of the first files.
        records_broken: Place and detail of the first records.
        other_languages: Source and id of the first documents in other languages than
            `corpus.languages`, and the language that each most likely has.
        duplicates: The first duplicates.
        near_duplicates: The least similar near-duplicates, the least similar first.
        overlaps: The first documents that share text with `exclude_overlap_with`.
        num_references_too_short: Texts of `exclude_overlap_with` that are not searched for.
        selections: What was kept of each source with `select`.
    """

    sources: dict[str, SourceFunnel]
    files_left_out: list[dict[str, str]] = field(default_factory=list)
    guesses: list[dict[str, str]] = field(default_factory=list)
    records_broken: list[dict[str, str]] = field(default_factory=list)
    other_languages: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[Pair] = field(default_factory=list)
    near_duplicates: list[Pair] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    num_references_too_short: int = 0
    selections: list[Selected] = field(default_factory=list)

    def total(self) -> SourceFunnel:
        """Return the counts of all sources together."""
        total = SourceFunnel()
        for source in self.sources.values():
            total.add(source)
        return total

    def summary(self) -> str:
        """Return one line: how much was found and kept, and the count of each reason."""
        counts = self.total().to_json()
        parts = []
        for what, done in (("files", "read"), ("documents", "kept")):
            found, kept, left_out = (counts[what][key] for key in ("found", done, "left_out"))
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            parts.append(f"{found} {what} found, {kept} {done}" + (f" ({reasons})" * bool(reasons)))
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return all counts, in total and by source, with the examples."""
        return {
            **self.total().to_json(),
            "sources": {name: counts.to_json() for name, counts in self.sources.items()},
            "files_left_out": self.files_left_out,
            "encodings_guessed": self.guesses,
            "records_broken": self.records_broken,
            "other_languages": self.other_languages,
            "duplicates": [pair._asdict() for pair in self.duplicates],
            "near_duplicates": [pair._asdict() for pair in self.near_duplicates],
            "overlaps": [overlap._asdict() for overlap in self.overlaps],
            "references_too_short": self.num_references_too_short,
            "selections": [selected.to_json() for selected in self.selections],
        }


_MAX_SHOWN = 8


def remarks(funnel: dict[str, Any]) -> Iterator[str]:
    """Yield lines about sources without documents, endings not read, guesses and languages.

    They are made of the result of `Funnel.to_json`.
    """
    for name, source in funnel["sources"].items():
        if not source["documents"]["kept"]:
            reasons = source["files"]["left_out"] | source["documents"]["left_out"]
            why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            yield f"no document of {name} is in the corpus" + (f" ({why})" if why else "")
    files = funnel["files"]
    if endings := files["endings_not_read"]:
        yield f"not read, other endings: {_largest(endings)}"
    if guessed := files["encodings_guessed"]:
        shown = [f"{name} {count:,}" for name, count in guessed.items()]
        yield (
            f"encodings that were guessed, by number of files: {', '.join(shown)} (set encoding on "
            "the source if a guess is wrong)"
        )
    if languages := funnel["documents"]["languages"]:
        yield f"languages that were recognised, by number of documents: {_largest(languages)}"


def _largest(counts: dict[str, int]) -> str:
    shown = [f"{name} {count:,}" for name, count in counts.items()]
    more = sum(list(counts.values())[_MAX_SHOWN:])
    return ", ".join(shown[:_MAX_SHOWN] + [f"{more:,} more"] * bool(more))


def with_endings_not_read(
    funnel: dict[str, Any], endings: dict[str, Counter[str]]
) -> dict[str, Any]:
    """Return a copy of the result of `Funnel.to_json` with other `endings_not_read`."""
    changed = copy.deepcopy(funnel)
    changed["files"]["endings_not_read"] = _by_count(sum(endings.values(), Counter()))
    for name, counts in changed["sources"].items():
        counts["files"]["endings_not_read"] = _by_count(endings.get(name, Counter()))
    return changed
