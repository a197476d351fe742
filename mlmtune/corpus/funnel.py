"""What became of every file and document: counts that add up."""

from collections import Counter
from typing import Any

_MAX_NAMED = 100


class _SourceCounts:
    """The counts of one source."""

    def __init__(self) -> None:
        self.files_read = 0
        self.files_left_out: Counter[str] = Counter()
        self.documents_kept = 0
        self.documents_left_out: Counter[str] = Counter()
        self.characters = 0

    def add(self, other: "_SourceCounts") -> None:
        self.files_read += other.files_read
        self.files_left_out += other.files_left_out
        self.documents_kept += other.documents_kept
        self.documents_left_out += other.documents_left_out
        self.characters += other.characters

    def to_json(self) -> dict[str, Any]:
        return {
            "files": {
                "found": self.files_read + self.files_left_out.total(),
                "read": self.files_read,
                "left_out": dict(sorted(self.files_left_out.items())),
            },
            "documents": {
                "found": self.documents_kept + self.documents_left_out.total(),
                "kept": self.documents_kept,
                "left_out": dict(sorted(self.documents_left_out.items())),
            },
            "characters": self.characters,
        }


class Funnel:
    """Counts what goes into the corpus and what is left out, by source and by reason.

    Nothing is counted twice: what was found is the sum of what was kept and what was left out.

    Reasons for files: `empty`, `binary`, `undecodable`, `unreadable`, `vanished`, `too_large`,
    `not_a_file`, `link_outside`, `link_broken`; and, where `corpus.on_error` is `skip`,
    `truncated`, `damaged`, `broken`.
    Reasons for documents: `empty`, `too_short`, `duplicate`, `not_sampled`, `broken`.
    """

    def __init__(self) -> None:
        self._sources: dict[str, _SourceCounts] = {}
        self._files_left_out: list[dict[str, str]] = []
        self._records_broken: list[dict[str, str]] = []

    def add_source(self, source: str) -> None:
        """List a source, so that it is reported even where nothing comes of it."""
        self._sources.setdefault(source, _SourceCounts())

    def file_read(self, source: str) -> None:
        """A file gave its documents."""
        self._sources[source].files_read += 1

    def file_left_out(self, source: str, path: str, reason: str, detail: str) -> None:
        """A file gave nothing; the first hundred are named."""
        self._sources[source].files_left_out[reason] += 1
        if len(self._files_left_out) < _MAX_NAMED:
            self._files_left_out.append({"path": path, "reason": reason, "detail": detail})

    def document_kept(self, source: str, num_characters: int) -> None:
        """A document is part of the corpus."""
        self._sources[source].documents_kept += 1
        self._sources[source].characters += num_characters

    def document_left_out(self, source: str, reason: str) -> None:
        """A document is not part of the corpus."""
        self._sources[source].documents_left_out[reason] += 1

    def record_broken(self, source: str, place: str, detail: str) -> None:
        """A record could not be read; the first hundred are named."""
        self.document_left_out(source, "broken")
        if len(self._records_broken) < _MAX_NAMED:
            self._records_broken.append({"place": place, "detail": detail})

    def num_kept(self, source: str) -> int:
        """Documents kept of a source so far."""
        return self._sources[source].documents_kept

    def summary(self) -> str:
        """One line: how much was found and kept, and the count of each reason."""
        counts = self.to_json()
        parts = []
        for what, done in (("files", "read"), ("documents", "kept")):
            found, kept, left_out = (counts[what][key] for key in ("found", done, "left_out"))
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            parts.append(f"{found} {what} found, {kept} {done}" + (f" ({reasons})" * bool(reasons)))
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All counts, in total and by source, with the first files and records left out."""
        total = _SourceCounts()
        for counts in self._sources.values():
            total.add(counts)
        return {
            **total.to_json(),
            "sources": {name: counts.to_json() for name, counts in self._sources.items()},
            "files_left_out": list(self._files_left_out),
            "records_broken": list(self._records_broken),
        }
