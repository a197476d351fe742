"""The content of corpus.json: what a corpus contains, in numbers."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pair_windows import PairView
from mlmtune.tokens.splits import Splits
from mlmtune.tokens.store import TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SAMPLE_TOKENS = 1_000_000
"""The number of tokens whose words are examined."""

_SAMPLE_STREAM = 0x3A3B
"""Keeps this draw of `corpus.split_seed` apart from the others."""

_NUM_FRAGMENTED = 20
_FRAGMENTED_PIECES = 3
"""The number of fragmented words that are listed, and the fewest pieces of such a word."""


def summarize(
    store: TokenStore,
    splits: Splits,
    tokenizer: "PreTrainedTokenizerFast",
    split_seed: int,
    added_words: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of corpus.json: the funnel, then numbers of the documents that were kept.

    Args:
        store: The tokenized corpus.
        splits: Its two sides.
        tokenizer: The tokenizer that made the store.
        split_seed: The seed of the sample of words.
        added_words: The words that were added to the tokenizer's vocabulary.
    """
    mixture = Mixture.of(splits.train_pairs or splits.train, splits.weights)
    return {
        **store.funnel,
        "sources": _sources(store, splits, mixture),
        "tokens": store.num_tokens,
        "fingerprint": store.fingerprint,
        "train": {
            **_side(splits.train, splits.train_pairs),
            "epoch": {"chunks": len(mixture), "tokens": mixture.num_tokens},
            "documents_in_general": splits.num_in_general,
        },
        "validation": {
            **_side(splits.validation, splits.validation_pairs),
            "fingerprint": splits.validation.text_fingerprint(),
        },
        **({} if splits.general is None else {"general": _side(splits.general)}),
        "lengths": _lengths(store.documents.lengths),
        "unknown_tokens": sum(source.num_unknown_tokens for source in store.sources),
        "unknown_characters": store.unknown_characters,
        "added_words": [*added_words],
        **_words(store, tokenizer, split_seed),
    }


def _sources(store: TokenStore, splits: Splits, mixture: Mixture) -> dict[str, Any]:
    return {
        source.name: {
            **store.funnel["sources"].get(source.name, {}),
            "validation": source.validation,
            "tokens": source.num_tokens,
            "unknown_tokens": source.num_unknown_tokens,
            "weight": float(weight),
            "epoch_tokens": int(epoch_tokens),
        }
        for source, weight, epoch_tokens in zip(
            store.sources, splits.weights, mixture.num_body_tokens_by_source, strict=True
        )
    }


def _side(view: ChunkView, pairs: PairView | None = None) -> dict[str, int | None]:
    side = {
        "documents": view.num_documents,
        "characters": view.num_characters,
        "tokens": view.num_body_tokens,
        "tokens_dropped": view.num_tokens_dropped,
        "tokens_truncated": view.num_tokens_truncated,
        "chunks": len(view),
    }
    if pairs is not None:
        side |= {"pairs": len(pairs), "tokens_without_pair": pairs.num_tokens_left_out}
    return side


def _lengths(lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Return quantiles of the documents' tokens, and a histogram by powers of two."""
    exponents = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    counts = np.bincount(exponents)
    shortest, median, longest = np.quantile(lengths, (0, 0.5, 1)).astype(np.int64).tolist()
    return {
        "shortest": shortest,
        "median": median,
        "longest": longest,
        "histogram": [
            {"from": 1 << exponent, "below": 2 << exponent, "documents": count}
            for exponent, count in enumerate(counts.tolist())
            if exponent >= exponents.min()
        ],
    }


def _words(
    store: TokenStore, tokenizer: "PreTrainedTokenizerFast", split_seed: int
) -> dict[str, Any]:
    """Return the fertility, and the words whose many pieces cost most, in a sample of the text."""
    ids, starts = _sample(store, split_seed)
    begins = np.flatnonzero(starts)
    ends = np.append(begins, len(ids))[1:]
    num_pieces = ends - begins
    present, places = np.unique(ids, return_inverse=True)
    unknown = tokenizer.unk_token
    known = np.asarray(
        [token != unknown and any(map(str.isalnum, token))
         for token in map(str, tokenizer.convert_ids_to_tokens(present.tolist()))],
        dtype=bool,
    )  # fmt: skip
    # A word may begin with white space, or with a byte of a character, in a token of its own.
    is_word = np.logical_or.reduceat(known[places], begins) if len(begins) else np.empty(0, bool)
    num_words = int(is_word.sum())
    is_fragmented = is_word & (num_pieces >= _FRAGMENTED_PIECES)
    fragmented = Counter(
        tuple(ids[begin:end].tolist())
        for begin, end in zip(begins[is_fragmented], ends[is_fragmented], strict=True)
    )
    costliest = sorted(fragmented.items(), key=lambda item: (-(len(item[0]) - 1) * item[1], item))
    return {
        "sampled_words": num_words,
        "tokens_per_word": float(num_pieces[is_word].sum() / max(num_words, 1)),
        "fragmented_words": [
            {
                "word": str(tokenizer.decode(list(pieces))).strip(),
                "pieces": [str(piece) for piece in tokenizer.convert_ids_to_tokens(list(pieces))],
                "count": count,
            }
            for pieces, count in costliest[:_NUM_FRAGMENTED]
        ],
    }


def _sample(store: TokenStore, split_seed: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the ids of some documents drawn at random, and whether each begins a word."""
    order = permute(
        np.arange(store.num_documents), store.num_documents, key(split_seed, _SAMPLE_STREAM)
    )
    lengths = store.documents.lengths[order]
    before = np.cumsum(lengths) - lengths
    drawn = np.sort(order[before < SAMPLE_TOKENS])
    positions = [
        np.arange(start, min(end, start + SAMPLE_TOKENS))
        for start, end in zip(store.offsets[drawn], store.offsets[drawn + 1], strict=True)
    ]
    return store.tokens_at(np.concatenate([np.empty(0, np.int64), *positions]))
