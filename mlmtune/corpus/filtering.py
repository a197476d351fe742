"""Filters for cleaned documents, by length, letters, duplicates and sampling.

They read no text. They decide from arrays of numbers, about all D documents of a corpus at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlmtune import randomness
from mlmtune.config import CorpusConfig
from mlmtune.corpus.funnel import REASONS
from mlmtune.corpus.languages import LEAST_PROBABILITY
from mlmtune.corpus.parts import Part, PartTable
from mlmtune.corpus.sources import CorpusSource

ScalarT = TypeVar("ScalarT", bound=np.generic)

OUTCOMES = ("kept", *REASONS)
KEPT = OUTCOMES.index("kept")

_MAX_EXAMPLES = 10
_SAMPLE_STREAM = 0x5341_4D50_4C45  # "SAMPLE": separates these draws from others with the same seed


@dataclass
class DocumentTable:
    """The numbers of all documents of a corpus, in its order.

    Attributes:
        part_offsets: (parts + 1,) The first document of each part, then D.
        source_offsets: (sources + 1,) The first document of each source, then D.
        content_hashes: (D,) Hashes of the normalised texts.
        num_characters: (D,) Lengths after cleaning.
        letter_shares: (D,) Shares of letters among the characters that are not white space.
        language_probabilities: (D,) Probabilities of being in one of `corpus.languages`.
        outcomes: (D,) Indices into OUTCOMES; all begin as kept.
    """

    part_offsets: NDArray[np.int64]
    source_offsets: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int32]
    letter_shares: NDArray[np.float32]
    language_probabilities: NDArray[np.float32]
    outcomes: NDArray[np.uint8]

    @classmethod
    def of(cls, parts: list[Part], tables: list[PartTable], num_sources: int) -> Self:
        """Join the tables of all parts; those of one source are next to each other."""
        part_offsets = np.cumsum([0, *(len(table.content_hashes) for table in tables)])
        first_parts = np.searchsorted([part.source for part in parts], np.arange(num_sources + 1))
        return cls(
            part_offsets=part_offsets,
            source_offsets=part_offsets[first_parts],
            content_hashes=_joined([table.content_hashes for table in tables], np.uint64),
            num_characters=_joined([table.num_characters for table in tables], np.int32),
            letter_shares=_joined([table.letter_shares for table in tables], np.float32),
            language_probabilities=_joined(
                [table.language_probabilities for table in tables], np.float32
            ),
            outcomes=np.full(part_offsets[-1], KEPT, dtype=np.uint8),
        )

    def of_source(self, source: int) -> slice:
        """Return the range of the documents of a source."""
        return slice(int(self.source_offsets[source]), int(self.source_offsets[source + 1]))

    def sources_of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (n,) the index of the source of each of n documents."""
        return np.searchsorted(self.source_offsets, documents, side="right") - 1

    def kept(self) -> NDArray[np.int64]:
        """Return the documents that are still kept."""
        return np.flatnonzero(self.outcomes == KEPT)

    def by_part(self, documents: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield each part that some documents are in, and their rows there; both are ascending."""
        if len(documents) == 0:
            return
        numbers = np.searchsorted(self.part_offsets, documents, side="right") - 1
        borders = np.flatnonzero(np.diff(numbers, prepend=-1))
        for begin, end in pairwise([*borders.tolist(), len(documents)]):
            part = int(numbers[begin])
            yield part, documents[begin:end] - self.part_offsets[part]

    def blocks(
        self, documents: NDArray[np.int64], size: int
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the part and the rows of up to `size` documents at a time, which are ascending."""
        for part, rows in self.by_part(documents):
            yield from ((part, rows[i : i + size]) for i in range(0, len(rows), size))

    def leave_out(self, documents: NDArray[np.int64], reason: str) -> None:
        """Record why some documents do not stay."""
        self.outcomes[documents] = OUTCOMES.index(reason)


def _joined(arrays: list[NDArray[ScalarT]], dtype: type[ScalarT]) -> NDArray[ScalarT]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def leave_out_by_content(table: DocumentTable, config: CorpusConfig) -> None:
    """Leave out documents that are too short, too long, hardly text, or in another language."""
    checks = {
        "too_short": table.num_characters < config.min_characters,
        "too_long": table.num_characters > (config.max_characters or np.inf),
        "few_letters": table.letter_shares < config.min_letter_share,
        "other_language": table.language_probabilities < LEAST_PROBABILITY,
    }
    for reason, is_out in checks.items():
        table.leave_out(np.flatnonzero(is_out & (table.outcomes == KEPT)), reason)


def leave_out_repeated(
    table: DocumentTable, sources: tuple[CorpusSource, ...], config: CorpusConfig
) -> list[tuple[int, int]]:
    """Leave out documents that equal an earlier one, and those beyond a source's `max_documents`.

    Without `deduplicate`, only training documents that equal a validation document are left out as
    duplicates.

    Returns:
        The first duplicates, each with the document that it equals.
    """
    examples: list[tuple[int, int]] = []
    earlier = np.empty(0, dtype=np.int64)  # documents whose duplicates in later sources go
    for number, source in enumerate(sources):
        of_source = table.of_source(number)
        documents = np.flatnonzero(table.outcomes[of_source] == KEPT) + of_source.start
        compared = earlier if config.deduplicate or not source.is_validation else earlier[:0]
        equal_to = _first_equal(table.content_hashes, compared, documents, config.deduplicate)
        is_duplicate = equal_to != documents
        table.leave_out(documents[is_duplicate], "duplicate")
        shown = np.flatnonzero(is_duplicate)[: _MAX_EXAMPLES - len(examples)]
        examples += zip(documents[shown].tolist(), equal_to[shown].tolist(), strict=True)
        documents = documents[~is_duplicate]
        limit = source.config.max_documents
        if limit is not None and len(documents) > limit:
            is_drawn = _sample(table.content_hashes[documents], limit, config.split_seed)
            table.leave_out(documents[~is_drawn], "not_sampled")
            documents = documents[is_drawn]
        # After sampling, because the duplicate of a document that was not sampled may stay.
        if config.deduplicate or source.is_validation:
            earlier = np.concatenate([earlier, documents])
    return examples


def _first_equal(
    hashes: NDArray[np.uint64],
    earlier: NDArray[np.int64],
    documents: NDArray[np.int64],
    among_themselves: bool,
) -> NDArray[np.int64]:
    """Return (n,) for each document the first that equals it, which may be itself.

    Documents are compared with earlier ones and, if `among_themselves`, with each other.
    """
    candidates = np.concatenate([earlier, documents]) if among_themselves else earlier
    if len(candidates) == 0:
        return documents
    order = candidates[np.argsort(hashes[candidates], kind="stable")]
    position = np.searchsorted(hashes[order], hashes[documents])
    first = order[np.minimum(position, len(order) - 1)]
    return np.where(hashes[first] == hashes[documents], first, documents)


def _sample(hashes: NDArray[np.uint64], size: int, seed: int) -> NDArray[np.bool_]:
    """Return (n,) whether each document is sampled."""
    # Keyed by content, so that a sample hardly changes when documents are added.
    draws = randomness.key(seed, _SAMPLE_STREAM, hashes)
    is_drawn = np.zeros(len(hashes), dtype=bool)
    is_drawn[np.argsort(draws, kind="stable")[:size]] = True
    return is_drawn
