"""Chunks against a stream that is put together here, token by token, in plain Python."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import text_of

from mlmtune.config import ChunkingConfig, CorpusConfig, SourceConfig
from mlmtune.errors import ConfigError, DataError
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens
from mlmtune.tokens.splits import Chunker, TextNeeds, build_splits, open_splits

PAD, CLS, SEP, END = 0, 2, 3, 4
BERT = SpecialTokens((CLS,), (SEP,), (SEP,))
FRAMES = [BERT, SpecialTokens((CLS,), (SEP,), (END,)), SpecialTokens((), (END,), (END,)),
          SpecialTokens((CLS, CLS), (SEP, END), (SEP,)), SpecialTokens((), (), ())]  # fmt: skip
FIRST_BODY_ID = 10

CONFIGS = st.builds(
    lambda mode, special, **rest: ChunkingConfig(
        mode=mode, special_tokens="chunk" if mode == "per_document" else special, **rest
    ),
    mode=st.sampled_from(["concatenate", "per_document"]),
    special=st.sampled_from(["chunk", "document"]),
    chunk_length=st.integers(5, 20),
    long_documents=st.sampled_from(["split", "truncate"]),
    last_chunk=st.sampled_from(["keep", "drop"]),
)
LENGTHS = st.lists(st.integers(0, 45), max_size=12)


def documents_of(lengths):
    """Documents of these lengths in which each token is another one."""
    numbers = iter(range(FIRST_BODY_ID, FIRST_BODY_ID + sum(lengths)))
    return [[next(numbers) for _ in range(length)] for length in lengths]


def ids_that_start_words(lengths):
    """The first of each document, and others in a pattern without a period in bytes or chunks."""
    return [id_ for document in documents_of(lengths) for place, id_ in enumerate(document)
            if place == 0 or id_ % 3 == 0 or id_ % 7 == 2]  # fmt: skip


@pytest.fixture(scope="session")
def make_view(make_store):
    def make(lengths, frame=BERT, documents=None, **settings):
        config = settings.pop("config", None) or ChunkingConfig(**settings)
        contents = documents_of(lengths)
        starts = ids_that_start_words(lengths)
        store = make_store(contents, [id_ in starts for ids in contents for id_ in ids])
        if documents is None:
            documents = np.arange(len(lengths))
        return ChunkView.of(store, np.asarray(documents, dtype=np.int64), config, frame, PAD)

    return make


def expected_windows(documents, frame, config):
    """What is in each chunk between its frame, and the frame."""
    documents = [document for document in documents if document]
    prefix, suffix = list(frame.prefix), list(frame.suffix)
    if config.mode == "per_document":
        window = config.chunk_length - len(prefix) - len(suffix)
        cut = 1 if config.long_documents == "truncate" else None
        pieces = [[d[i : i + window] for i in range(0, len(d), window)][:cut] for d in documents]
        return [piece for document in pieces for piece in document], prefix, suffix
    if config.special_tokens == "document":
        stream = [id_ for document in documents for id_ in [*prefix, *document, *suffix]]
        prefix = suffix = []
    else:
        stream = []
        for number, document in enumerate(documents):
            stream += ([] if number == 0 else list(frame.separator)) + document
    window = config.chunk_length - len(prefix) - len(suffix)
    windows = [stream[i : i + window] for i in range(0, len(stream), window)]
    if config.last_chunk == "drop":
        windows = [ids for ids in windows if len(ids) == window]
    return windows, prefix, suffix


def rows_of(batch):
    """Each chunk without its padding."""
    return [ids[:length].tolist() for ids, length in zip(batch.input_ids, batch.lengths,
                                                         strict=True)]  # fmt: skip


def whole(view):
    return view.batch(np.arange(len(view)))


@given(lengths=LENGTHS, frame=st.sampled_from(FRAMES), config=CONFIGS)
def test_chunks_are_windows_on_the_stream(make_view, lengths, frame, config):
    view = make_view(lengths, frame, config=config)
    windows, prefix, suffix = expected_windows(documents_of(lengths), frame, config)
    assert len(view) == len(windows)
    assert view.num_tokens == sum(len(prefix) + len(ids) + len(suffix) for ids in windows)
    if not windows:
        return
    batch = whole(view)
    assert rows_of(batch) == [prefix + ids + suffix for ids in windows]
    assert batch.lengths.tolist() == view.lengths(np.arange(len(view))).tolist()
    assert batch.input_ids.shape[1] == batch.lengths.max() <= config.chunk_length

    body = batch.input_ids >= FIRST_BODY_ID
    assert np.array_equal(batch.special_tokens_mask, ~body)
    outside = np.arange(body.shape[1]) >= batch.lengths[:, None]
    assert (batch.input_ids[outside] == PAD).all()

    first_in_chunk = body & (np.cumsum(body, axis=1) == 1)
    starts = np.isin(batch.input_ids, ids_that_start_words(lengths)) | first_in_chunk
    assert np.array_equal(batch.word_starts, starts)


@given(lengths=LENGTHS.filter(any), frame=st.sampled_from(FRAMES), config=CONFIGS,
       data=st.data())  # fmt: skip
def test_a_chunk_is_the_same_alone_and_in_any_batch(make_view, lengths, frame, config, data):
    view = make_view(lengths, frame, config=config)
    if len(view) == 0:
        return
    places = st.lists(st.integers(0, len(view) - 1), min_size=1, max_size=6)
    chosen = np.asarray(data.draw(places))
    together = view.batch(chosen)
    for row, chunk in enumerate(chosen):
        alone, length = view.batch(chosen[row : row + 1]), together.lengths[row]
        assert view.lengths(np.asarray([chunk])).tolist() == [length] == alone.lengths.tolist()
        for name in ("input_ids", "special_tokens_mask", "word_starts"):
            assert np.array_equal(getattr(together, name)[row, :length], getattr(alone, name)[0])


@given(lengths=LENGTHS, chunk_length=st.integers(4, 20))
def test_concatenating_keeps_every_token_once_and_in_order(make_view, lengths, chunk_length):
    view = make_view(lengths, chunk_length=chunk_length)
    ids = [id_ for chunk in range(len(view)) for id_ in rows_of(view.batch(np.array([chunk])))[0]]
    body = [id_ for id_ in ids if id_ >= FIRST_BODY_ID]
    assert body == list(range(FIRST_BODY_ID, FIRST_BODY_ID + sum(lengths)))
    num_separators = max(sum(length > 0 for length in lengths) - 1, 0)
    assert ids.count(SEP) - len(view) == num_separators
    assert view.num_tokens_dropped == view.num_tokens_truncated == 0


@given(lengths=LENGTHS.filter(any), chunk_length=st.integers(4, 20))
def test_concatenating_pads_the_last_chunk_only(make_view, lengths, chunk_length):
    view = make_view(lengths, chunk_length=chunk_length)
    chunk_lengths = view.lengths(np.arange(len(view)))
    assert (chunk_lengths[:-1] == chunk_length).all()
    assert 2 < chunk_lengths[-1] <= chunk_length


def test_separators_stand_between_documents_only(make_view):
    view = make_view([3, 0, 2], chunk_length=20)
    assert rows_of(whole(view)) == [[CLS, 10, 11, 12, SEP, 13, 14, SEP]]


def test_a_chunk_without_its_words_beginning_begins_one(make_view, make_store):
    store = make_store([[10, 11, 12, 13, 14]], [True, False, False, False, False])
    view = ChunkView.of(store, np.arange(1), ChunkingConfig(chunk_length=4), BERT, PAD)
    starts = whole(view).word_starts
    assert starts[:, 1].all()
    assert starts.sum() == len(view) == 3


def test_dropping_the_last_chunk_counts_its_tokens(make_view):
    kept = make_view([25, 10], chunk_length=10)
    dropped = make_view([25, 10], chunk_length=10, last_chunk="drop")
    assert (len(kept), kept.num_tokens_dropped) == (5, 0)
    # 36 tokens with the separator: four windows of eight, and four tokens.
    assert (len(dropped), dropped.num_tokens_dropped) == (4, 4)
    assert dropped.lengths(np.arange(4)).tolist() == [10] * 4
    full = make_view([24], chunk_length=10, last_chunk="drop")
    assert (len(full), full.num_tokens_dropped) == (3, 0)


@given(lengths=LENGTHS, frame=st.sampled_from(FRAMES), config=CONFIGS)
def test_every_token_is_in_a_chunk_or_counted(make_view, lengths, frame, config):
    view = make_view(lengths, frame, config=config)
    ids = whole(view).input_ids if len(view) else np.empty(0)
    num_body = int((ids >= FIRST_BODY_ID).sum())
    num_lost = view.num_tokens_truncated + view.num_tokens_dropped
    assert view.num_body_tokens == sum(lengths)
    assert view.num_documents == len(lengths)
    assert view.num_characters == 5 * sum(lengths)
    if config.mode == "per_document":
        assert num_body + view.num_tokens_truncated == sum(lengths)
        assert view.num_tokens_dropped == 0
    else:
        # What is dropped is counted as it stood in the stream: with special tokens between.
        assert num_body <= sum(lengths) <= num_body + num_lost


def test_per_document_a_long_document_is_split(make_view):
    view = make_view([3, 10], chunk_length=6, mode="per_document")
    assert rows_of(whole(view)) == [
        [CLS, 10, 11, 12, SEP], [CLS, 13, 14, 15, 16, SEP], [CLS, 17, 18, 19, 20, SEP],
        [CLS, 21, 22, SEP],
    ]  # fmt: skip
    assert view.num_tokens_truncated == 0


def test_per_document_a_long_document_is_truncated_and_counted(make_view):
    view = make_view([3, 10, 4], chunk_length=6, mode="per_document", long_documents="truncate")
    assert rows_of(whole(view)) == [
        [CLS, 10, 11, 12, SEP], [CLS, 13, 14, 15, 16, SEP], [CLS, 23, 24, 25, 26, SEP],
    ]  # fmt: skip
    assert view.num_tokens_truncated == 6
    assert view.num_tokens == 17


def test_special_tokens_around_documents_stand_in_the_stream(make_view):
    view = make_view([3, 1], chunk_length=5, special_tokens="document")
    assert rows_of(whole(view)) == [[CLS, 10, 11, 12, SEP], [CLS, 13, SEP]]
    cut = make_view([4, 1], chunk_length=5, special_tokens="document")
    assert rows_of(whole(cut)) == [[CLS, 10, 11, 12, 13], [SEP, CLS, 14, SEP]]


def test_a_view_holds_the_documents_it_was_given_in_their_order(make_view):
    view = make_view([2, 2, 2], documents=[2, 0], chunk_length=20)
    assert rows_of(whole(view)) == [[CLS, 14, 15, SEP, 10, 11, SEP]]
    assert (view.num_documents, view.num_body_tokens, view.num_characters) == (2, 4, 20)


def test_a_chunk_too_short_for_text_is_refused(make_view):
    frame = SpecialTokens((CLS, CLS), (SEP, SEP), (SEP,))
    with pytest.raises(ConfigError, match=r"chunk_length 4 .*longer"):
        make_view([5], frame, chunk_length=4)
    assert len(make_view([5], frame, chunk_length=5)) == 5
    assert len(make_view([4], frame, chunk_length=4, special_tokens="document")) == 2


@given(lengths=LENGTHS.filter(any), config=CONFIGS, data=st.data())
def test_selected_chunks_are_the_views_chunks(make_view, lengths, config, data):
    view = make_view(lengths, config=config)
    if len(view) == 0:
        return
    chosen = data.draw(st.lists(st.integers(0, len(view) - 1), min_size=1, unique=True))
    selected = view.select(np.asarray(chosen))
    rows = rows_of(whole(view))
    assert rows_of(whole(selected)) == [rows[chunk] for chunk in chosen]
    assert selected.num_tokens == sum(len(rows[chunk]) for chunk in chosen)
    again = selected.select(np.asarray([len(chosen) - 1]))
    assert rows_of(whole(again)) == [rows[chosen[-1]]]
    assert rows_of(whole(view)) == rows


def test_tokens_of_selected_chunks_are_counted_by_source(make_store):
    store = make_store(documents_of([12, 7, 0, 10]), sources=[0, 1, 1, 2])
    view = ChunkView.of(store, np.arange(4), ChunkingConfig(chunk_length=8), BERT, PAD)
    selected = view.select(np.asarray([1, 2]))  # six tokens; a separator and five tokens
    assert selected.num_body_tokens_by_source.tolist() == [6, 5, 0]
    assert selected.num_body_tokens == 11
    assert selected.select(np.asarray([1])).num_body_tokens_by_source.tolist() == [0, 5, 0]
    assert view.num_body_tokens_by_source.tolist() == [12, 7, 10]


# The two sides.


def corpus_config(**settings):
    return CorpusConfig(sources=[SourceConfig(format="text", path="nowhere")], **settings)


def split(store, chunking=None, **settings):
    chunking = chunking or ChunkingConfig(chunk_length=6)
    return build_splits(store, corpus_config(**settings), Chunker(chunking, BERT, PAD))


def body_ids(view):
    ids = whole(view).input_ids
    return set(ids[ids >= FIRST_BODY_ID].tolist())


@given(lengths=st.lists(st.integers(1, 20), min_size=2, max_size=15), seed=st.integers(0, 1000))
def test_no_document_is_on_both_sides_and_none_is_on_neither(make_store, lengths, seed):
    documents = documents_of(lengths)
    splits = split(make_store(documents), validation_fraction=0.3, split_seed=seed)
    train, validation = body_ids(splits.train), body_ids(splits.validation)
    assert all(set(ids) <= train or set(ids) <= validation for ids in documents)
    assert not train & validation
    assert train | validation == set(range(FIRST_BODY_ID, FIRST_BODY_ID + sum(lengths)))
    assert splits.train.num_documents + splits.validation.num_documents == len(lengths)


def test_splitting_by_chunk_draws_disjoint_chunks(make_store):
    store = make_store(documents_of([100, 100, 200]))
    splits = split(store, split_by="chunk", validation_fraction=0.25)
    everything = ChunkView.of(store, np.arange(3), ChunkingConfig(chunk_length=6), BERT, PAD)
    assert len(splits.validation) == round(0.25 * len(everything))
    assert len(splits.train) + len(splits.validation) == len(everything)
    rows = rows_of(whole(splits.train)) + rows_of(whole(splits.validation))
    assert sorted(rows) == sorted(rows_of(whole(everything)))
    train, validation = body_ids(splits.train), body_ids(splits.validation)
    assert all(set(range(a, b)) & side for a, b in ((10, 110), (110, 210), (210, 410))
               for side in (train, validation))  # fmt: skip


def test_splitting_by_chunk_draws_by_its_seed(make_store):
    store = make_store(documents_of([100, 100, 200]))
    sides = [body_ids(split(store, split_by="chunk", split_seed=seed).validation)
             for seed in (1, 1, 2)]  # fmt: skip
    assert sides[0] == sides[1] != sides[2]


def test_splitting_by_chunk_takes_as_many_chunks_as_it_is_told(make_store):
    store = make_store(documents_of([400]))
    splits = split(store, split_by="chunk", max_train_chunks=40, max_validation_chunks=12)
    assert (len(splits.train), len(splits.validation)) == (40, 12)
    assert not body_ids(splits.train) & body_ids(splits.validation)
    for view in (splits.train, splits.validation):
        assert view.num_body_tokens == len(body_ids(view))  # each id occurs once
        assert view.num_documents is None
    few = split(store, split_by="chunk", max_validation_chunks=10_000)
    assert (len(few.train), len(few.validation)) == (1, 99)


@pytest.mark.parametrize(
    ("lengths", "settings", "side"),
    [([0, 0], {}, "training"), ([5], {"split_by": "chunk"}, "validation")],
)
def test_a_side_without_a_chunk_is_said(make_store, lengths, settings, side):
    chunking = ChunkingConfig(chunk_length=10)
    with pytest.raises(DataError, match=rf"the {side} text .* no chunk of 10 tokens"):
        split(make_store(documents_of(lengths)), chunking, **settings)


def test_a_validation_side_that_is_all_dropped_is_said(make_store):
    chunking = ChunkingConfig(chunk_length=40, last_chunk="drop")
    store = make_store(documents_of([30] * 12))
    with pytest.raises(
        DataError, match=r"the validation text \(30 tokens\) makes no.*last_chunk: keep"
    ):
        split(store, chunking, validation_fraction=0.01)


def test_opening_a_corpus_gives_both_sides_and_warns_of_a_leak(corpus_dir, tokenizer, console):
    def open_(**settings):
        console.lines.clear()
        corpus = CorpusConfig(
            sources=[SourceConfig(format="text", path=str(corpus_dir))], **settings
        )
        store, splits = open_splits(
            text_of(corpus, console=console),
            TextNeeds(),
            ChunkingConfig(chunk_length=16),
            tokenizer,
        )
        return store, splits, [line for line in console.lines if "leak" in line]

    store, splits, leaks = open_(validation_fraction=0.2)
    assert leaks == []
    assert splits.train.num_documents + splits.validation.num_documents == 40
    assert splits.train.num_body_tokens + splits.validation.num_body_tokens == store.num_tokens
    first = splits.train.batch(np.array([0])).input_ids[0]
    assert first[0] == tokenizer.cls_token_id
    assert first[-1] == tokenizer.sep_token_id
    assert re.fullmatch(r"(\w+ ?)+", tokenizer.decode(first[1:5]))
    *_, leaks = open_(split_by="chunk")
    assert len(leaks) == 1
    assert not any("left to train on" in line for line in console.lines)
    open_(split_by="chunk", max_validation_chunks=1000)
    assert any("1 are left to train on" in line for line in console.lines)


def test_token_counts_are_of_the_views_documents_alone(make_store):
    splits = split(make_store([[17, 17, 19], [18, 19], [19, 19, 19]] * 5), validation_fraction=0.3)
    chunks = whole(splits.train)
    body = chunks.input_ids[~chunks.special_tokens_mask]
    assert splits.train.token_counts(25).tolist() == np.bincount(body, minlength=25).tolist()
    assert len(splits.validation) > 0
