"""BM25, which counts words: what an encoder must beat to be of use for retrieval."""

import numpy as np
from transformers import PreTrainedTokenizerFast

from mlmtune.corpus.cleaning import words
from mlmtune.evaluation.retrieval import Retrieval
from mlmtune.evaluation.retrieval_pool import RetrievalPool
from mlmtune.tokens.unknown import unknown_token_id


def bm25(pool: RetrievalPool, tokenizer: PreTrainedTokenizerFast) -> Retrieval:
    """Rank the targets of a pool by BM25 (Robertson et al. 1995; Lucene's variant and defaults).

    Its words are those of the text that the tokens spell, casefolded; an ideograph is a word. So
    BM25 and the encoders read the same text. Unknown tokens spell none.
    """
    import bm25s  # not before it is needed: it brings along SciPy, numba or JAX if there are any

    unknown_id = unknown_token_id(tokenizer)
    queries, targets = (
        [words(str(tokenizer.decode(ids[ids != unknown_id]))) for ids in texts]
        for texts in (pool.queries, pool.targets)
    )
    scores = np.zeros((len(pool), len(pool)), np.float32)
    if any(targets):
        index = bm25s.BM25()
        index.index(targets, show_progress=False)
        for row, query in zip(scores, queries, strict=True):
            row[:] = index.get_scores(query) if query else 0.0
    return Retrieval(pool.ranks(scores), anisotropy=None, num_titles=pool.num_titles)
