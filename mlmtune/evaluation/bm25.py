"""BM25, which counts words: what an encoder must beat to be of use for retrieval."""

import numpy as np
from transformers import PreTrainedTokenizerFast

from mlmtune.corpus.cleaning import words
from mlmtune.evaluation.retrieval import Retrieval, RetrievalPool


def bm25(pool: RetrievalPool, tokenizer: PreTrainedTokenizerFast) -> Retrieval:
    """Rank the targets of a pool by BM25 (Robertson et al. 1995; Lucene's variant and defaults).

    Its words are those of the text that the tokens spell, casefolded; an ideograph is a word. So
    BM25 and the encoders read the same text.
    """
    import bm25s  # not before it is needed: it brings along SciPy, numba or JAX if there are any

    queries, targets = (
        [words(str(tokenizer.decode(ids))) for ids in texts]
        for texts in (pool.queries, pool.targets)
    )
    index = bm25s.BM25()
    index.index(targets, show_progress=False)
    scores = [
        index.get_scores(query) if query else np.zeros(len(pool), np.float32) for query in queries
    ]
    return Retrieval(pool.ranks(np.stack(scores)), anisotropy=None, num_titles=pool.num_titles)
