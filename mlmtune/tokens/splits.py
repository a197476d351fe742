"""The two sides of a corpus, as chunks and, if the objective needs them, as pairs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import (
    ChunkingConfig,
    CorpusConfig,
    Objective,
    SourceConfig,
    StrategyName,
    has_pairs,
)
from mlmtune.corpus.sources import corpus_sources
from mlmtune.corpus.splitting import validation_mask
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError
from mlmtune.printable import counted
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.marks import Marker, Marks, TokenizedText, open_marks
from mlmtune.tokens.mixing import Countable, Mixture, with_replay
from mlmtune.tokens.opening import find_text, open_store
from mlmtune.tokens.pair_windows import PairFrame, PairView
from mlmtune.tokens.sentences import SENTENCES, sentence_marker
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.store import TokenStore
from mlmtune.tokens.words import WORDS, check_words, word_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPLIT_BY_CHUNK_STREAM = 0x5B1C
"""Keeps the draw of `split_by: chunk` apart from the other draws by `corpus.split_seed`."""


@dataclass(frozen=True)
class PhaseText:
    """The text that a phase trains on.

    Attributes:
        view: Its chunks, or its pairs if the objective has pairs.
        mixture: The composition of an epoch of the phase.
    """

    view: ChunkView | PairView
    mixture: Mixture

    @classmethod
    def of(cls, view: ChunkView | PairView, weights: NDArray[np.float64]) -> Self:
        """Mix the sources by (S,) how often an epoch sees each of them."""
        return cls(view, Mixture.of(view, weights))


@dataclass(frozen=True)
class Splits:
    """The two sides of a corpus.

    Attributes:
        train: The chunks of the training side, as `chunking` cuts them.
        weights: (S,) How often an epoch sees each of the store's sources.
        train_pairs: The pairs of the training side; None if the objective has no pairs.
        phases: What each phase trains on, of the training side; that of a run without phases is all
            of it.
        general: The chunks of `evaluation.general`, which has a store of its own; None if empty.
        num_in_general: The number of documents that are not trained on because they are general
            text, too.
        marks: The fingerprints of the marks of words and sentences, by marker.
    """

    train: ChunkView
    validation: ChunkView
    weights: NDArray[np.float64]
    train_pairs: PairView | None = None
    validation_pairs: PairView | None = None
    general: ChunkView | None = None
    num_in_general: int = 0
    phases: tuple[PhaseText, ...] = ()
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TextNeeds:
    """What must be known about a text, which depends on what it is used for.

    Attributes:
        objective: An objective with pairs needs to know where sentences begin.
        word_strategies: The masking strategies that must know where words begin, by config section.
        word_segmenter: What finds the words of scripts without spaces; None for the tokenizer.
        language: The language whose rules end a sentence (ISO 639).
        general: The text that forgetting is measured on.
        phases: The text that each phase trains on, by the phase's name.
    """

    objective: Objective = "mlm"
    word_strategies: dict[str, StrategyName] = field(default_factory=dict)
    word_segmenter: str | None = None
    language: str = "en"
    general: tuple[SourceConfig, ...] = ()
    phases: tuple["PhaseNeeds", ...] = ()


@dataclass(frozen=True)
class PhaseNeeds:
    """Which text a phase trains on, and how it is cut.

    Attributes:
        name: The name of the phase.
        corpus: The corpus with the weights of the phase; a source of weight 0 is not seen.
        chunk_length: The tokens of a chunk or a pair, special tokens included.
    """

    name: str
    corpus: CorpusConfig
    chunk_length: int


@dataclass(frozen=True)
class Chunker:
    """How the documents of a store become chunks.

    Attributes:
        special_tokens: The special tokens of the tokenizer's template.
        pad_token_id: Fills the chunks that are shorter than the longest of a batch.
    """

    config: ChunkingConfig
    special_tokens: SpecialTokens
    pad_token_id: int

    @classmethod
    def of(cls, config: ChunkingConfig, tokenizer: "PreTrainedTokenizerFast") -> Self:
        """Take the special tokens from a tokenizer."""
        return cls(config, SpecialTokens.of(tokenizer), int(tokenizer.pad_token_id or 0))

    def view(
        self, store: TokenStore, documents: NDArray[np.int64], *, separates_sources: bool = False
    ) -> ChunkView:
        """Cut some documents of a store into chunks; see `ChunkView.of`."""
        return ChunkView.of(
            store, documents, self.config, self.special_tokens, self.pad_token_id,
            separates_sources=separates_sources,
        )  # fmt: skip


def open_splits(
    text: CorpusText,
    needs: TextNeeds,
    chunking: ChunkingConfig,
    tokenizer: "PreTrainedTokenizerFast",
    *,
    rebuilds: bool = False,
    refresh: bool = False,
) -> tuple[TokenStore, Splits]:
    """Open the token store of a corpus, built first if there is none yet, and its two sides.

    Args:
        text: The corpus, from `find_text`.
        needs: What must be known about it.
        chunking: How it is cut into chunks.
        tokenizer: A fast tokenizer.
        rebuilds: See `open_store`.
        refresh: Whether to look up the general text's git branches again; see `find_text`.

    Raises:
        ConfigError: An extra is missing, or what would be masked as words is not words.
        DataError: There is no usable text, or a side has no chunk or no pair.
        ResourceError: The token cache cannot be written.
    """
    store, marks = _open_marked(text, needs, tokenizer, rebuilds=rebuilds)
    for section, strategy in needs.word_strategies.items():
        note = check_words(store, section, strategy)
        if note is not None:
            text.console.say(note)
    chunker = Chunker.of(chunking, tokenizer)
    general = None
    if needs.general:
        unlisted = text.general(needs.general)
        general_text = find_text(unlisted, is_needed=refresh, refresh=refresh)
        general = _open_general(general_text, needs, chunker, tokenizer)
    splits = build_splits(store, text.config, chunker, general)
    for remark in _remarks(splits, text.config):
        text.console.say(remark)
    pairs_of = None
    if has_pairs(needs.objective):
        starts = marks[f"{SENTENCES}{needs.language}"].positions(store)
        pairs_of = partial(PairView, store, starts, frame=PairFrame.of(tokenizer))
        splits = _with_pairs(splits, text.config, needs.objective, pairs_of, chunking.chunk_length)
    phases = tuple(_phase_texts(needs.phases, splits, text.config, chunker, pairs_of))
    splits = replace(splits, phases=phases)
    return store, replace(splits, marks={name: m.fingerprint for name, m in marks.items()})


def _open_marked(
    text: CorpusText, needs: TextNeeds, tokenizer: "PreTrainedTokenizerFast", *, rebuilds: bool
) -> tuple[TokenStore, dict[str, Marks]]:
    """Open a token store, built first if there is none yet, and the marks that are needed."""
    markers = needed_markers(needs, text)
    store = open_store(text, tokenizer, rebuilds=rebuilds)
    tokens = TokenizedText(store, text, plain_backend(tokenizer))
    marks = {marker.name: open_marks(marker, tokens) for marker in markers}
    if (words := marks.get(f"{WORDS}{needs.word_segmenter}")) is not None:
        store = store.with_word_starts(words.shards, words.num_by_source)
    return store, marks


def _open_general(
    general: CorpusText, needs: TextNeeds, chunker: Chunker, tokenizer: "PreTrainedTokenizerFast"
) -> ChunkView:
    """Open the general text, all of which is measured, source by source.

    Raises:
        DataError: The text has no chunk.
    """
    only_words = TextNeeds(word_segmenter=needs.word_segmenter)
    # Its folder is not one that the user named, so it is rebuilt rather than refused.
    store, _ = _open_marked(general, only_words, tokenizer, rebuilds=True)
    view = chunker.view(store, np.arange(store.num_documents), separates_sources=True)
    _check_chunks(view, f"{general.key}: the text", chunker)
    return view


def _remarks(splits: Splits, corpus: CorpusConfig) -> Iterator[str]:
    """Yield a line for each unexpected property of the two sides."""
    if corpus.split_by == "chunk":
        yield (
            "corpus.split_by: chunk puts parts of one document on both sides; the validation "
            "perplexity leaks and looks better than it is"
        )
        if len(splits.train) < len(splits.validation):
            yield (
                f"of {len(splits.train) + len(splits.validation):,} chunks "
                f"{len(splits.train):,} are left to train on; lower corpus.max_validation_chunks"
            )
    if splits.num_in_general:
        yield (
            f"left out of training, because evaluation.general holds them, too: "
            f"{counted(splits.num_in_general, 'document')}"
        )


def needed_markers(needs: TextNeeds, text: CorpusText) -> list[Marker]:
    """Return the rules that find the words and sentences that must be known.

    Raises:
        ConfigError: An extra is missing, and there is no named store that may have the marks.
    """
    markers = []
    if needs.word_segmenter is not None:
        markers.append(word_marker(needs.word_segmenter))
    if has_pairs(needs.objective):
        by_lines = [source.is_by_lines for source in text.sources]
        markers.append(sentence_marker(needs.language, by_lines))
    for marker in markers:
        if marker.made_by is None and text.store is None:
            raise ConfigError(marker.how_to_install)
    return markers


def build_splits(
    store: TokenStore, corpus: CorpusConfig, chunker: Chunker, general: ChunkView | None = None
) -> Splits:
    """Split the documents of a store (or, with `split_by: chunk`, its chunks) into two views.

    Documents of the general text are left out of the training side.

    Raises:
        DataError: A side has no chunk, or a source that is replayed has none.
    """
    on_train, on_validation, num_in_general = _documents_of_sides(store, corpus, general)
    if corpus.split_by == "chunk":
        train, validation = _split_by_chunk(chunker.view(store, on_train), corpus)
    else:
        train = chunker.view(store, on_train, separates_sources=_is_weighted(corpus))
        validation = chunker.view(store, on_validation)
    for side, chunks in (("training", train), ("validation", validation)):
        _check_chunks(chunks, f"the {side} text", chunker)
    weights = _weights_of_epoch(corpus, train)
    return Splits(train, validation, weights, general=general, num_in_general=num_in_general)


def _check_chunks(chunks: ChunkView, text: str, chunker: Chunker) -> None:
    if len(chunks) == 0:
        or_keep = ", or set chunking.last_chunk: keep" if chunks.num_tokens_dropped else ""
        raise DataError(
            f"{text} ({counted(chunks.num_body_tokens, 'token')}) makes no chunk of "
            f"{chunker.config.chunk_length} tokens; add text{or_keep}"
        )


def _weights_of_epoch(corpus: CorpusConfig, view: Countable) -> NDArray[np.float64]:
    """Return (S,) the weights of the sources; those of replayed ones follow from their shares.

    Raises:
        DataError: Nothing is left to replay, or nothing else is left to train on.
    """
    sources = corpus_sources(corpus)
    weights = np.asarray([source.weight for source in sources])
    replay = np.asarray([source.replay for source in sources])
    if replay.any():
        has_text = view.num_chunks_by_source > 0
        is_empty = (replay > 0) & ~has_text
        if is_empty.any():
            name = sources[int(np.argmax(is_empty))].name
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
    """Return the documents of each side, and how many are left out because they are general text.

    With `split_by: chunk` all documents are on the training side.
    """
    hashes = store.documents.content_hashes
    on_validation = in_general = np.zeros(len(hashes), dtype=bool)
    if corpus.split_by == "document":
        on_validation = validation_mask(hashes, store.documents.sources, corpus)
    if general is not None:
        general_hashes = general.store.documents.content_hashes
        # The validation side stays as it is, so that its perplexity compares with other runs.
        in_general = np.isin(hashes, general_hashes) & ~on_validation
    on_train = np.flatnonzero(~on_validation & ~in_general)
    return on_train, np.flatnonzero(on_validation), int(in_general.sum())


def _with_pairs(
    splits: Splits,
    corpus: CorpusConfig,
    objective: Objective,
    pairs_of: Callable[..., PairView],
    pair_length: int,
) -> Splits:
    """Return the splits with the pairs of their documents.

    Raises:
        DataError: A side has none, or no other document to take a second segment from.
    """
    train, validation = (
        pairs_of(chunks.layout.documents, pair_length=pair_length)
        for chunks in (splits.train, splits.validation)
    )
    for side, pairs in (("training", train), ("validation", validation)):
        if len(pairs) == 0:
            raise DataError(
                f"objective: {objective}: no document of the {side} text has two sentences in a "
                "row; add longer documents, or set objective: mlm"
            )
        if objective == "mlm+nsp" and pairs.num_documents == 1:
            remedy = "add documents, or give the text as several (corpus.sources.format)"
            if side == "validation" and not corpus.validation_sources:
                fraction = corpus.validation_fraction
                remedy = f"raise corpus.validation_fraction (now {fraction:g}), {remedy}"
            raise DataError(
                "objective: mlm+nsp takes the second segment of half of the pairs from another "
                f"document, and all pairs of the {side} text are of one; {remedy}, or set "
                "objective: mlm+sop"
            )
    weights = _weights_of_epoch(corpus, train)
    return replace(splits, train_pairs=train, validation_pairs=validation, weights=weights)


def _phase_texts(
    phases: Sequence[PhaseNeeds],
    splits: Splits,
    corpus: CorpusConfig,
    chunker: Chunker,
    pairs_of: Callable[..., PairView] | None,
) -> Iterator[PhaseText]:
    """Yield the text of each phase; without phases, the whole training side once.

    Raises:
        DataError: A phase has nothing to train on.
    """
    whole = PhaseText.of(splits.train_pairs or splits.train, splits.weights)
    if not phases:
        yield whole
    train, sources = splits.train, splits.train.store.documents.sources
    for phase in phases:
        if (phase.corpus, phase.chunk_length) == (corpus, chunker.config.chunk_length):
            yield whole
            continue
        is_seen = np.asarray([source.weight > 0 for source in corpus_sources(phase.corpus)])
        documents = train.layout.documents
        documents = documents[is_seen[sources[documents]]]
        view: ChunkView | PairView
        if pairs_of is not None:
            view = pairs_of(documents, pair_length=phase.chunk_length)
        else:
            config = chunker.config.model_copy(update={"chunk_length": phase.chunk_length})
            view = replace(chunker, config=config).view(
                train.store, documents, separates_sources=_is_weighted(phase.corpus)
            )
        if len(view) == 0:
            raise DataError(
                f"phase {phase.name}: its sources have no training text for a chunk of "
                f"{phase.chunk_length} tokens; name others, or add text"
            )
        yield PhaseText.of(view, _weights_of_epoch(phase.corpus, view))


def _is_weighted(corpus: CorpusConfig) -> bool:
    return any(source.weight != 1.0 or source.replay for source in corpus_sources(corpus))


def _split_by_chunk(chunks: ChunkView, corpus: CorpusConfig) -> tuple[ChunkView, ChunkView]:
    order = permute(
        np.arange(len(chunks)), len(chunks), key(corpus.split_seed, SPLIT_BY_CHUNK_STREAM)
    )
    # Validation takes its chunks first, but always leaves one to train on.
    fraction = max(1, round(corpus.validation_fraction * len(chunks)))
    num_validation = min(corpus.max_validation_chunks or fraction, max(len(chunks) - 1, 0))
    train = order[num_validation:][: corpus.max_train_chunks]
    return chunks.select(np.sort(train)), chunks.select(np.sort(order[:num_validation]))
