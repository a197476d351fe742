"""The split of a corpus into training and validation documents."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune import randomness
from mlmtune.config import CorpusConfig
from mlmtune.corpus.sources import corpus_sources
from mlmtune.errors import DataError

_SPLIT_STREAM = 0x5350_4C49_5400  # "SPLIT": separates these draws from others with the same seed


def validation_mask(
    content_hashes: NDArray[np.uint64], sources: NDArray[np.integer[Any]], config: CorpusConfig
) -> NDArray[np.bool_]:
    """Return (D,) whether each of D documents is held out for validation.

    If some documents are of validation sources, it is these. Otherwise a document's side is a draw
    that is keyed by its content and `split_seed`, so that it does not move when others are added or
    removed. Each side has at least one document. Replayed text is always trained on.

    Args:
        content_hashes: (D,) Hashes of the normalised texts.
        sources: (D,) Indices into `corpus_sources`.
        config: The section `corpus`.

    Raises:
        DataError: There are not enough documents for two sides.
    """
    records = corpus_sources(config)
    is_given: NDArray[np.bool_] = np.asarray([source.is_validation for source in records])[sources]
    if is_given.any():
        if is_given.all():
            raise DataError(
                "corpus.sources: every document is one of corpus.validation_sources; "
                "none is left to train on"
            )
        return is_given
    candidates = np.flatnonzero(np.asarray([not source.replay for source in records])[sources])
    if len(candidates) < 2:
        raise DataError(
            f"corpus.sources: {len(candidates)} document is too few to split into training and "
            "validation by document; add documents, give corpus.validation_sources, or set "
            "corpus.split_by: chunk"
        )

    keys = randomness.key(config.split_seed, _SPLIT_STREAM, content_hashes[candidates])
    draws = randomness.uniform(keys, np.zeros(1, dtype=np.uint64))
    is_drawn: NDArray[np.bool_] = draws < config.validation_fraction
    # An empty side gets the document whose draw is nearest to it.
    if not is_drawn.any():
        is_drawn[np.argmin(draws)] = True
    elif is_drawn.all():
        is_drawn[np.argmax(draws)] = False
    mask = np.zeros(len(content_hashes), dtype=bool)
    mask[candidates] = is_drawn
    return mask
