"""What became of every file, document and character: counts that add up."""

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
    "duplicate",
    "not_sampled",
    "overlap",
    "near_duplicate",
)
"""Why a document is left out, in the order in which it is decided."""


@dataclass
class SourceFunnel:
    """The counts of one source, or of all together.

    Attributes:
        files_read: files that gave documents.
        files_left_out: those that gave none, by reason: `empty`, `binary`, `undecodable`,
            `unreadable`, `vanished`, `too_large`, `not_a_file`, `link_outside`, `link_broken`; of
            git repositories `link`, `submodule`, `lfs_pointer`, `unsafe_path`; and, where
            `corpus.on_error` is `skip`, `truncated`, `damaged`, `broken`.
        endings_not_read: files of a folder that have none of the endings that are read, by ending.
        encodings: what files that were read are encoded in, by number of files.
        encodings_guessed: those of them that could have been decoded otherwise.
        documents_kept: what is in the corpus.
        documents_left_out: by one of `REASONS`.
        characters_found: of all documents, before cleaning.
        cleaned_away: characters by cleaning step.
        characters_left_out: of cleaned documents that are not in the corpus, by reason.
        characters_kept: what is in the corpus.
    """

    files_read: int = 0
    files_left_out: Counter[str] = field(default_factory=Counter)
    endings_not_read: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)
    encodings_guessed: Counter[str] = field(default_factory=Counter)
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
        """Found, kept and left out; each found is the sum of what follows it."""
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
    """The commonest first, equal ones by name: folders are listed in no order."""
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


class Pair(NamedTuple):
    """A document that is left out, and the one that it repeats.

    Attributes:
        document: its source and id.
        repeats: source and id of the other.
        similarity: 1.0 where they are equal.
    """

    document: str
    repeats: str
    similarity: float


class Overlap(NamedTuple):
    """A document that is left out because of text that must not be learned.

    Attributes:
        document: its source and id.
        words: the first words that it shares.
    """

    document: str
    words: str


@dataclass
class Funnel:
    """Counts by source, with examples.

    Attributes:
        sources: the counts of each source, by its name.
        files_left_out: path, reason and detail of some files.
        guesses: path and guessed encoding of some files.
        records_broken: place and detail of some records.
        duplicates: some of them.
        near_duplicates: some of them, the least similar first.
        overlaps: documents that share text with `exclude_overlap_with`.
        num_references_too_short: texts of it that are too short to be searched for.
    """

    sources: dict[str, SourceFunnel]
    files_left_out: list[dict[str, str]] = field(default_factory=list)
    guesses: list[dict[str, str]] = field(default_factory=list)
    records_broken: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[Pair] = field(default_factory=list)
    near_duplicates: list[Pair] = field(default_factory=list)
    overlaps: list[Overlap] = field(default_factory=list)
    num_references_too_short: int = 0

    def total(self) -> SourceFunnel:
        """The counts of all sources together."""
        total = SourceFunnel()
        for source in self.sources.values():
            total.add(source)
        return total

    def summary(self) -> str:
        """One line: how much was found and kept, and the count of each reason."""
        counts = self.total().to_json()
        parts = []
        for what, done in (("files", "read"), ("documents", "kept")):
            found, kept, left_out = (counts[what][key] for key in ("found", done, "left_out"))
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            parts.append(f"{found} {what} found, {kept} {done}" + (f" ({reasons})" * bool(reasons)))
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All counts, in total and by source, with the examples."""
        return {
            **self.total().to_json(),
            "sources": {name: counts.to_json() for name, counts in self.sources.items()},
            "files_left_out": self.files_left_out,
            "encodings_guessed": self.guesses,
            "records_broken": self.records_broken,
            "duplicates": [pair._asdict() for pair in self.duplicates],
            "near_duplicates": [pair._asdict() for pair in self.near_duplicates],
            "overlaps": [overlap._asdict() for overlap in self.overlaps],
            "references_too_short": self.num_references_too_short,
        }


_MOST_ENDINGS = 8


def remarks(funnel: dict[str, Any]) -> Iterator[str]:
    """What a user should know of a corpus besides what is left out of it, in a line each.

    Args:
        funnel: of `Funnel.to_json`.
    """
    for name, source in funnel["sources"].items():
        if not source["documents"]["kept"]:
            reasons = source["files"]["left_out"] | source["documents"]["left_out"]
            why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            yield f"no document of {name} is in the corpus" + (f" ({why})" if why else "")
    files = funnel["files"]
    if endings := files["endings_not_read"]:
        shown = [f"{ending} {count:,}" for ending, count in endings.items()]
        more = sum(list(endings.values())[_MOST_ENDINGS:])
        others = [f"{more:,} more"] if more else []
        yield f"not read, other endings: {', '.join(shown[:_MOST_ENDINGS] + others)}"
    if guessed := files["encodings_guessed"]:
        shown = [f"{name} {count:,}" for name, count in guessed.items()]
        yield (
            f"encodings that were guessed, by number of files: {', '.join(shown)} (set encoding on "
            "the source if a guess is wrong)"
        )


def with_endings_not_read(
    funnel: dict[str, Any], endings: dict[str, Counter[str]]
) -> dict[str, Any]:
    """A funnel of `Funnel.to_json`, with other files that are not read.

    Args:
        funnel: what is to be changed; it stays as it is.
        endings: of each source, by its name.
    """

    def files(counts: dict[str, Any], endings: Counter[str]) -> dict[str, Any]:
        of_files = counts["files"] | {"endings_not_read": _by_count(endings)}
        return counts | {"files": of_files}

    total = sum(endings.values(), Counter[str]())
    sources = {
        name: files(counts, endings.get(name, Counter()))
        for name, counts in funnel["sources"].items()
    }
    return files(funnel, total) | {"sources": sources}
