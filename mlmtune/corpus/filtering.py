"""Which of the cleaned documents stay: lengths, letters, samples, duplicates.

A decision needs no text but a document's numbers, so that it is made for all of them at once.

Legend: D documents of the corpus, in its order.
"""

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlmtune import randomness
from mlmtune.config import CorpusConfig
from mlmtune.corpus.funnel import REASONS
from mlmtune.corpus.parts import Part, PartTable
from mlmtune.corpus.sources import CorpusSource

ScalarT = TypeVar("ScalarT", bound=np.generic)

OUTCOMES = ("kept", *REASONS)
"""What becomes of a document."""

KEPT = OUTCOMES.index("kept")

_MAX_EXAMPLES = 10
_SAMPLE_STREAM = 0x5341_4D50_4C45  # "SAMPLE": tells these draws from others with the same seed


@dataclass
class DocumentTable:
    """All documents of a corpus, as numbers.

    Attributes:
        part_offsets: (parts + 1,) where each part's documents begin and end.
        source_offsets: (sources + 1,) where each source's do.
        content_hashes: (D,) uint64.
        num_characters: (D,) int32.
        letter_shares: (D,) float32.
        outcomes: (D,) uint8, indices into OUTCOMES; all begin as kept.
    """

    part_offsets: NDArray[np.int64]
    source_offsets: NDArray[np.int64]
    content_hashes: NDArray[np.uint64]
    num_characters: NDArray[np.int32]
    letter_shares: NDArray[np.float32]
    outcomes: NDArray[np.uint8]

    @classmethod
    def of(cls, parts: list[Part], tables: list[PartTable], num_sources: int) -> Self:
        """Put the tables of all parts together."""
        sizes = np.asarray([len(table.content_hashes) for table in tables], dtype=np.int64)
        sources = np.asarray([part.source for part in parts], dtype=np.int64)
        by_source = np.bincount(sources, weights=sizes, minlength=num_sources).astype(np.int64)
        return cls(
            part_offsets=np.concatenate([[0], np.cumsum(sizes)]),
            source_offsets=np.concatenate([[0], np.cumsum(by_source)]),
            content_hashes=_joined([table.content_hashes for table in tables], np.uint64),
            num_characters=_joined([table.num_characters for table in tables], np.int32),
            letter_shares=_joined([table.letter_shares for table in tables], np.float32),
            outcomes=np.zeros(int(sizes.sum()), dtype=np.uint8),
        )

    def of_source(self, source: int) -> slice:
        """The documents of a source."""
        return slice(int(self.source_offsets[source]), int(self.source_offsets[source + 1]))

    def sources_of(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) which source each of n documents is of."""
        return np.searchsorted(self.source_offsets, documents, side="right") - 1

    def kept(self) -> NDArray[np.int64]:
        """The documents that are still kept."""
        return np.flatnonzero(self.outcomes == KEPT)

    def kept_rows(self, part: int) -> NDArray[np.int64]:
        """The rows of a part that are still kept."""
        start, end = self.part_offsets[part : part + 2]
        return np.flatnonzero(self.outcomes[start:end] == KEPT)

    def leave_out(self, documents: NDArray[np.int64], reason: str) -> None:
        """Note why some documents do not stay."""
        self.outcomes[documents] = OUTCOMES.index(reason)


def _joined(arrays: list[NDArray[ScalarT]], dtype: type[ScalarT]) -> NDArray[ScalarT]:
    return np.concatenate([np.empty(0, dtype), *arrays])


def leave_out_by_content(table: DocumentTable, config: CorpusConfig) -> None:
    """Leave out what is too short, too long, or hardly text."""
    checks = {
        "too_short": table.num_characters < config.min_characters,
        "too_long": table.num_characters > (config.max_characters or np.inf),
        "few_letters": table.letter_shares < config.min_letter_share,
    }
    for reason, is_out in checks.items():
        table.leave_out(np.flatnonzero(is_out & (table.outcomes == KEPT)), reason)


def leave_out_repeated(
    table: DocumentTable, sources: tuple[CorpusSource, ...], config: CorpusConfig
) -> list[tuple[int, int]]:
    """Leave out documents that equal an earlier one, and those beyond a source's `max_documents`.

    Without `deduplicate` duplicates stay, but for training documents that equal one of validation.
    A document that was not sampled does not shut out its equal in a later source.

    Returns:
        Some duplicates, each with the document that it equals.
    """
    examples: list[tuple[int, int]] = []
    earlier = np.empty(0, dtype=np.int64)  # documents that shut out their equals
    for number, source in enumerate(sources):
        place = table.of_source(number)
        documents = np.flatnonzero(table.outcomes[place] == KEPT) + place.start
        compared = earlier if config.deduplicate or not source.is_validation else earlier[:0]
        equal_to = _first_equal(table.content_hashes, compared, documents, config.deduplicate)
        is_duplicate = equal_to != documents
        table.leave_out(documents[is_duplicate], "duplicate")
        examples += zip(
            documents[is_duplicate][:_MAX_EXAMPLES].tolist(),
            equal_to[is_duplicate][:_MAX_EXAMPLES].tolist(),
            strict=True,
        )
        documents = documents[~is_duplicate]
        limit = source.config.max_documents
        if limit is not None and len(documents) > limit:
            is_drawn = _sample(table.content_hashes[documents], limit, config.split_seed)
            table.leave_out(documents[~is_drawn], "not_sampled")
            documents = documents[is_drawn]
        # Only here: a document that was not sampled must not shut out its equal elsewhere.
        if config.deduplicate or source.is_validation:
            earlier = np.concatenate([earlier, documents])
    return examples[:_MAX_EXAMPLES]


def _first_equal(
    hashes: NDArray[np.uint64],
    earlier: NDArray[np.int64],
    documents: NDArray[np.int64],
    among_themselves: bool,
) -> NDArray[np.int64]:
    """For each document the first with its hash: an earlier one, one of themselves, or itself."""
    candidates = np.concatenate([earlier, documents]) if among_themselves else earlier
    if len(candidates) == 0:
        return documents
    order = candidates[np.argsort(hashes[candidates], kind="stable")]
    found = np.searchsorted(hashes[order], hashes[documents])
    first = order[np.minimum(found, len(order) - 1)]
    return np.where(hashes[first] == hashes[documents], first, documents)


def _sample(hashes: NDArray[np.uint64], size: int, seed: int) -> NDArray[np.bool_]:
    """(n,) which are drawn: those with the lowest draws, keyed by content.

    So a subset hardly changes when documents are added.
    """
    draws = randomness.key(seed, _SAMPLE_STREAM, hashes)
    is_drawn = np.zeros(len(hashes), dtype=bool)
    is_drawn[np.argsort(draws, kind="stable")[:size]] = True
    return is_drawn
