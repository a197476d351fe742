"""A corpus's two sides, as chunks and, where the objective needs them, as pairs."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import (
    ChunkingConfig,
    CorpusConfig,
    Objective,
    SourceConfig,
    StrategyName,
    TokenizationConfig,
    has_pairs,
)
from mlmtune.console import Console
from mlmtune.corpus.corpus import read_corpus
from mlmtune.corpus.document import Document
from mlmtune.corpus.listing import Listing
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import ConfigError, DataError
from mlmtune.locations import cache_directory
from mlmtune.printable import counted
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.marks import Marker, Marks, Reader, open_marks
from mlmtune.tokens.mixing import Countable, with_replay
from mlmtune.tokens.pair_windows import PairFrame, PairView
from mlmtune.tokens.sentences import SENTENCES, sentence_marker
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.tokenization import SpecialTokens, list_text, open_store
from mlmtune.tokens.words import WORDS, check_words, word_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLIT_BY_CHUNK_STREAM = 0x5B1C
"""Keeps the draw of `split_by: chunk` apart from the other draws by `corpus.split_seed`."""


@dataclass(frozen=True)
class Splits:
    """The two sides of a corpus.

    Attributes:
        train: chunks to learn from.
        validation: chunks to measure on.
        weights: (S,) how often an epoch sees each of the store's sources.
        train_pairs: pairs to learn from; None for an objective without them.
        validation_pairs: pairs to measure on.
        general: chunks of `evaluation.general`, which are of a store of their own; None without.
        num_in_general: documents that are not trained on because they are general text, too.
        marks: fingerprints of what words and sentences were found by.
    """

    train: ChunkView
    validation: ChunkView
    weights: NDArray[np.float64]
    train_pairs: PairView | None = None
    validation_pairs: PairView | None = None
    general: ChunkView | None = None
    num_in_general: int = 0
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Uses:
    """What will be done with the text, which decides what has to be known of it.

    Attributes:
        objective: pairs need to know where sentences begin.
        word_strategies: by config section, the masking strategies that must know where words begin.
        general: text to measure forgetting on.
        by_lines: for each source of the store, whether each of its lines is a sentence.
    """

    objective: Objective = "mlm"
    word_strategies: dict[str, StrategyName] = field(default_factory=dict)
    general: tuple[SourceConfig, ...] = ()
    by_lines: tuple[bool, ...] = ()


def open_splits(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    chunking: ChunkingConfig,
    uses: Uses,
    tokenizer: "PreTrainedTokenizerFast",
    listing: Listing | None,
    console: Console,
    *,
    rebuilds: bool = False,
) -> tuple[TokenStore, Splits]:
    """A corpus's token store (built if need be) and its two sides.

    Raises:
        ConfigError: an extra is missing, or the words are none.
        DataError: there is no usable text, or a side has no chunk or no pair.
        ResourceError: the token cache cannot be written.
    """
    markers = needed_markers(tokenization, uses)
    store, found = _open_marked(
        corpus, tokenization, markers, tokenizer, listing, console, rebuilds=rebuilds
    )
    for section, strategy in uses.word_strategies.items():
        note = check_words(store, section, strategy)
        if note is not None:
            console.say(note)
    general = None
    if uses.general:
        general = open_whole(corpus, tokenization, chunking, uses.general, tokenizer, console)
    splits = build_splits(
        store, corpus, chunking, SpecialTokens.of(tokenizer), _pad_token_id(tokenizer), general
    )
    _say_what_is_odd(splits, corpus, console)
    if (sentences := found.get(f"{SENTENCES}{tokenization.language}")) is not None:
        frame = PairFrame.of(tokenizer)
        splits = _with_pairs(splits, store, sentences, corpus, chunking, frame, uses.objective)
    marks = {name: marks.fingerprint for name, marks in found.items()}
    return store, replace(splits, marks=marks)


def _open_marked(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    markers: list[Marker],
    tokenizer: "PreTrainedTokenizerFast",
    listing: Listing | None,
    console: Console,
    *,
    rebuilds: bool,
) -> tuple[TokenStore, dict[str, Marks]]:
    """A token store, built if need be, and what has to be known of its text besides."""
    store = open_store(corpus, tokenization, tokenizer, listing, console, rebuilds=rebuilds)
    read: Reader | None = None
    if listing is not None:
        read = partial(_documents, corpus, tokenization, listing, console)
    encode = Encoder(plain_backend(tokenizer))
    found = {marker.name: open_marks(marker, store, read, encode, console) for marker in markers}
    if (words := found.get(f"{WORDS}{tokenization.word_segmenter}")) is not None:
        store = store.with_word_starts(words.shards, words.num_by_source)
    return store, found


def open_whole(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    chunking: ChunkingConfig,
    sources: tuple[SourceConfig, ...],
    tokenizer: "PreTrainedTokenizerFast",
    console: Console,
) -> ChunkView:
    """Text that is measured as a whole, source by source, cleaned as the corpus is.

    With `tokenization.store` its store is the folder `general` in that one, so that it goes along.

    Raises:
        ConfigError: an extra is missing.
        DataError: there is no usable text in it.
        ResourceError: the token cache cannot be written.
    """
    measured = CorpusConfig(
        sources=list(sources),
        cleaning=corpus.cleaning,
        markdown=corpus.markdown,
        split_seed=corpus.split_seed,
        on_error=corpus.on_error,
    )
    if tokenization.store is not None:
        folder = str(Path(tokenization.store) / "general")
        tokenization = tokenization.model_copy(update={"store": folder})
    markers = needed_markers(tokenization, Uses())
    try:
        listing = list_text(measured, tokenization, console)
        store, _ = _open_marked(
            measured, tokenization, markers, tokenizer, listing, console, rebuilds=True
        )
    except DataError as error:
        what = (
            str(error).replace("corpus.sources", "evaluation.general").replace(" to train on", "")
        )
        raise DataError(what) from error
    view = ChunkView.of(
        store, np.arange(store.num_documents), chunking, SpecialTokens.of(tokenizer),
        _pad_token_id(tokenizer), separates_sources=True,
    )  # fmt: skip
    if len(view) == 0:
        raise DataError(
            f"evaluation.general: the text ({counted(view.num_body_tokens, 'token')}) makes no "
            f"chunk of {chunking.chunk_length} tokens; add text"
        )
    return view


def _pad_token_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _say_what_is_odd(splits: Splits, corpus: CorpusConfig, console: Console) -> None:
    if corpus.split_by == "chunk":
        console.say(
            "corpus.split_by: chunk puts parts of one document on both sides; the validation "
            "perplexity leaks and looks better than it is"
        )
        if len(splits.train) < len(splits.validation):
            console.say(
                f"of {len(splits.train) + len(splits.validation):,} chunks "
                f"{len(splits.train):,} are left to train on; lower corpus.max_validation_chunks"
            )
    if splits.num_in_general:
        console.say(
            f"left out of training, because evaluation.general holds them, too: "
            f"{counted(splits.num_in_general, 'document')}"
        )


def needed_markers(tokenization: TokenizationConfig, uses: Uses) -> list[Marker]:
    """What has to be known of the text besides its tokens.

    Raises:
        ConfigError: an extra is missing, and there is no store that may know it already.
    """
    markers = []
    if tokenization.word_segmenter is not None:
        markers.append(word_marker(tokenization.word_segmenter))
    if has_pairs(uses.objective):
        markers.append(sentence_marker(tokenization.language, uses.by_lines))
    for marker in markers:
        if marker.made_by is None and tokenization.store is None:
            raise ConfigError(marker.how_to_install)
    return markers


def _documents(
    corpus: CorpusConfig,
    tokenization: TokenizationConfig,
    listing: Listing,
    console: Console,
    start: int,
) -> Iterator[Document]:
    cleaned = cache_directory(tokenization.cache_dir, "cleaned")
    return read_corpus(corpus, listing, cleaned, console).documents(start)


def build_splits(
    store: TokenStore,
    corpus: CorpusConfig,
    chunking: ChunkingConfig,
    special_tokens: SpecialTokens,
    pad_token_id: int,
    general: ChunkView | None = None,
) -> Splits:
    """Split the store's documents (or, where the config insists, its chunks) into two views.

    Args:
        store: the tokenized corpus.
        corpus: how to split.
        chunking: how to cut.
        special_tokens: the tokenizer's frame.
        pad_token_id: fills what is shorter than the longest of a batch.
        general: text that is not to be trained on.

    Raises:
        DataError: a side has no chunk, or what is to be replayed has none.
    """
    weights = np.ones(len(store.sources))
    weights[len(corpus.validation_sources) :] = [source.weight for source in corpus.sources]
    is_weighted = bool((weights != 1.0).any() or _replay(corpus).any())
    on_train, on_validation, num_in_general = _documents_of_sides(store, corpus, general)

    def view(documents: NDArray[np.int64], *, separates_sources: bool = False) -> ChunkView:
        return ChunkView.of(
            store, documents, chunking, special_tokens, pad_token_id,
            separates_sources=separates_sources,
        )  # fmt: skip

    if corpus.split_by == "chunk":
        train, validation = _split_by_chunk(view(on_train), corpus)
    else:
        train = view(on_train, separates_sources=is_weighted)
        validation = view(on_validation)
    splits = Splits(train, validation, weights, general=general, num_in_general=num_in_general)
    for side, chunks in (("training", splits.train), ("validation", splits.validation)):
        if len(chunks) == 0:
            remedy = "add text"
            if chunks.num_tokens_dropped:
                remedy += ", or set chunking.last_chunk: keep"
            raise DataError(
                f"the {side} text ({counted(chunks.num_body_tokens, 'token')}) makes no chunk of "
                f"{chunking.chunk_length} tokens; {remedy}"
            )
    return replace(splits, weights=_weights_of_epoch(store, corpus, weights, train))


def _replay(corpus: CorpusConfig) -> NDArray[np.float64]:
    """(S,) the share of the training tokens that each of the store's sources is to have, or 0."""
    shares = [source.replay or 0.0 for source in corpus.sources]
    return np.asarray([0.0] * len(corpus.validation_sources) + shares)


def _weights_of_epoch(
    store: TokenStore, corpus: CorpusConfig, weights: NDArray[np.float64], view: Countable
) -> NDArray[np.float64]:
    """(S,) the config's weights, and those that replay comes to.

    Raises:
        DataError: there is nothing to replay, or nothing but that.
    """
    replay = _replay(corpus)
    if replay.any():
        has_text = view.num_chunks_by_source > 0
        is_empty = (replay > 0) & ~has_text
        if is_empty.any():
            name = store.sources[int(np.argmax(is_empty))].name
            raise DataError(
                f"corpus.sources: nothing of {name} is left to replay; name other text than "
                "evaluation.general, or more"
            )
        if not has_text[replay == 0].any():
            raise DataError(
                "corpus.sources: nothing but replayed text is left to train on; add text"
            )
    return with_replay(weights, replay, view)


def _documents_of_sides(
    store: TokenStore, corpus: CorpusConfig, general: ChunkView | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The documents to train on, those to validate on, and how many general text takes away.

    With `split_by: chunk` all are of the first kind.
    """
    on_validation = np.zeros(store.num_documents, dtype=bool)
    if corpus.split_by == "document":
        on_validation = validation_mask(
            store.documents.content_hashes, store.documents.sources, corpus
        )
    in_general = np.zeros_like(on_validation)
    if general is not None:
        in_general = (
            np.isin(store.documents.content_hashes, general.store.documents.content_hashes)
            & ~on_validation
        )
    on_train = np.flatnonzero(~on_validation & ~in_general)
    return on_train, np.flatnonzero(on_validation), int(in_general.sum())


def _with_pairs(
    splits: Splits,
    store: TokenStore,
    sentences: Marks,
    corpus: CorpusConfig,
    chunking: ChunkingConfig,
    frame: PairFrame,
    objective: Objective,
) -> Splits:
    """The splits with their pairs.

    Raises:
        DataError: a side has none, or no other document to take a second segment from.
    """
    positions = sentences.positions(store)
    on_train, on_validation, _ = _documents_of_sides(store, corpus, splits.general)
    train, validation = (
        PairView(store, positions, documents, chunking.chunk_length, frame)
        for documents in (on_train, on_validation)
    )
    for side, pairs in (("training", train), ("validation", validation)):
        if len(pairs) == 0:
            raise DataError(
                f"objective: {objective}: no document of the {side} text has two sentences in a "
                "row; add longer documents, or set objective: mlm"
            )
        if objective == "mlm+nsp" and pairs.num_documents == 1:
            raise DataError(
                "objective: mlm+nsp takes the second segment of half of the pairs from another "
                f"document, and all pairs of the {side} text are of one; "
                + _more_documents(side, corpus)
            )
    return replace(
        splits,
        train_pairs=train,
        validation_pairs=validation,
        weights=_weights_of_epoch(store, corpus, splits.weights, train),
    )


def _more_documents(side: str, corpus: CorpusConfig) -> str:
    """What to do about a side that has the pairs of one document alone."""
    remedy = "add documents, or give the text as several (corpus.sources.format)"
    if side == "validation" and not corpus.validation_sources:
        remedy = f"raise corpus.validation_fraction (now {corpus.validation_fraction:g}), {remedy}"
    return f"{remedy}, or set objective: mlm+sop"


def _split_by_chunk(chunks: ChunkView, corpus: CorpusConfig) -> tuple[ChunkView, ChunkView]:
    order = permute(
        np.arange(len(chunks)), len(chunks), key(corpus.split_seed, SPLIT_BY_CHUNK_STREAM)
    )
    fraction = max(1, round(corpus.validation_fraction * len(chunks)))
    num_validation = min(corpus.max_validation_chunks or fraction, max(len(chunks) - 1, 0))
    train = order[num_validation:][: corpus.max_train_chunks]
    return chunks.select(np.sort(train)), chunks.select(np.sort(order[:num_validation]))
