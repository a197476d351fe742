"""Pairs of segments: real borders, fair labels, nothing cut, nothing that tells the label."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.errors import ConfigError
from mlmtune.randomness import key
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.pair_windows import PairFrame, PairView
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.sequences import ChunkSequences, Sequences

CLS, SEP, PAD = 2, 3, 0
FRAME = PairFrame((CLS,), (SEP,), (SEP,), PAD)
LENGTH = 35  # a room of 32 tokens: 16 for a sentence

DOCUMENTS = st.lists(  # each a list of the lengths of its sentences
    st.lists(st.integers(1, 50), min_size=1, max_size=12), min_size=1, max_size=8
)
MANY = [
    np.random.default_rng(number).integers(2, 14, size=3 + number % 40).tolist()
    for number in range(200)
]


@pytest.fixture(scope="session")
def make_pairs(make_store):
    """A view of documents whose tokens tell where they stand: each id is its position."""

    def make(documents, chosen=None, length=LENGTH, sources=None):
        sizes = [sum(document) for document in documents]
        ids = np.arange(sum(sizes)) % 60_000 + 100
        ends = np.cumsum(sizes)
        store = make_store(
            [ids[end - size : end] for size, end in zip(sizes, ends, strict=True)], sources=sources
        )
        lengths = [length for document in documents for length in document]
        sentences = np.cumsum(lengths) - lengths
        chosen = np.arange(len(documents)) if chosen is None else np.asarray(chosen)
        return PairView(store, sentences, chosen, length, FRAME)

    return make


def sequences_of(view, objective="mlm+nsp", seed=7, weights=None):
    weights = np.ones(len(view.num_chunks_by_source)) if weights is None else np.asarray(weights)
    return PairSequences(view, Mixture.of(view, weights), objective, seed)


def pairs_in(chunks):
    """The ids of A and of B, and the label of each pair."""
    found = []
    for row, length in enumerate(chunks.lengths):
        ids, types = chunks.input_ids[row, :length], chunks.token_type_ids[row, :length]
        assert ids[0] == CLS
        assert ids[-1] == SEP
        first, second = ids[types == 0], ids[types == 1]
        assert first[-1] == SEP
        found.append((first[1:-1].tolist(), second[:-1].tolist(), int(chunks.pair_labels[row])))
    return found


def epoch_of(sequences, epoch=0):
    places = np.arange(len(sequences))
    return pairs_in(sequences.batch(np.full_like(places, epoch), places)[0])


def is_in_a_row(ids):
    return all(after == before + 1 for before, after in pairwise(ids))


# ------------------------------------------------------------------------------------- laws


@given(documents=DOCUMENTS, seed=st.integers(0, 2**63), objective=st.sampled_from(
    ["mlm+nsp", "mlm+sop"]), data=st.data())  # fmt: skip
def test_the_laws_of_pairs(make_pairs, documents, seed, objective, data):
    chosen = data.draw(st.sets(st.integers(0, len(documents) - 1), min_size=1))
    view = make_pairs(documents, sorted(chosen))
    if view.num_documents < (2 if objective == "mlm+nsp" else 1):
        return  # refused before
    starts = np.cumsum([0, *map(sum, documents)])
    sentences = np.concatenate(
        [
            start + np.cumsum([0, *document])
            for start, document in zip(starts, documents, strict=False)
        ]
    )
    chunks, _ = (sequences := sequences_of(view, objective, seed)).batch(
        np.zeros(len(view), np.int64), np.arange(len(view))
    )
    assert (chunks.lengths <= LENGTH).all()
    assert np.array_equal(chunks.special_tokens_mask, chunks.input_ids < 100)
    assert len(sequences) == len(view)
    for first, second, label in pairs_in(chunks):
        a, b = (second, first) if objective == "mlm+sop" and label else (first, second)
        assert a
        assert b
        assert is_in_a_row(a)
        assert is_in_a_row(b)
        documents_of = [int(np.searchsorted(starts, s[0] - 100, side="right")) - 1 for s in (a, b)]
        assert set(documents_of) <= set(chosen)
        for segment, document in zip((a, b), documents_of, strict=True):
            assert segment[-1] - 100 < starts[document + 1]  # of one document
        if objective == "mlm+nsp" and label:
            assert documents_of[0] != documents_of[1]
        else:
            assert b[0] == a[-1] + 1
        # Borders are those of sentences, but inside one that is longer than half of the room.
        for border in (a[0], b[0], a[-1] + 1, b[-1] + 1):
            place = border - 100
            before = sentences[sentences <= place].max()
            after = sentences[sentences >= place].min()
            assert place in (before, after) or after - before > (LENGTH - 3) // 2
        assert len(a) <= (LENGTH - 3) // 2


@given(documents=DOCUMENTS)
def test_each_token_is_in_one_window_or_counted(make_pairs, documents):
    view = make_pairs(documents)
    inside = int(view.num_body_tokens_by_source.sum())
    assert inside + view.num_tokens_left_out == sum(map(sum, documents))
    assert view.num_tokens == inside + 3 * len(view)
    alone = [document for document in documents if len(document) == 1 and document[0] <= 16]
    assert view.num_tokens_left_out >= sum(map(sum, alone))


def test_an_epoch_sees_all_that_is_not_left_out(make_pairs):
    """Segments are exchanged, not drawn: what one pair loses another has."""
    view = make_pairs(MANY)
    total = sum(map(sum, MANY))
    for objective, least in (("mlm+nsp", 0.97), ("mlm+sop", 1.0)):
        sequences = sequences_of(view, objective)
        seen = {id_ for first, second, _ in epoch_of(sequences) for id_ in first + second}
        assert sequences.num_tokens_unseen() == total - len(seen)
        assert len(seen) >= least * (total - view.num_tokens_left_out)
        assert f"leaves out {total - len(seen):,} tokens" in sequences.describe()
        assert f"{view.num_tokens_left_out:,} are in documents" in sequences.describe()


# ---------------------------------------------------------------------------------- fairness


@pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop"])
def test_half_of_the_labels_are_ones(make_pairs, objective):
    view = make_pairs(MANY)
    sequences = sequences_of(view, objective)
    labels = np.asarray([label for e in range(20) for _, _, label in epoch_of(sequences, e)])
    # NSP decides for two pairs at once.
    assert abs(labels.mean() - 0.5) < 4 * np.sqrt(0.5 / len(labels))


@pytest.mark.parametrize(
    "documents", [[[5] * 40, [5] * 40], [[5] * 200, [4, 4]], [[5] * 60, [3, 3], [6, 2, 4]]]
)
def test_few_documents_have_half_of_the_labels_too(make_pairs, documents):
    """However alike the documents of two windows that meet, B comes from another one."""
    view = make_pairs(documents)
    sequences = sequences_of(view)
    starts = np.cumsum([0, *map(sum, documents)]) + 100
    labels = []
    for epoch in range(60):
        for first, second, label in epoch_of(sequences, epoch):
            of_first, of_second = np.searchsorted(starts, [first[0], second[0]], side="right")
            assert (of_first != of_second) == bool(label)
            labels.append(label)
        places = np.arange(len(view))
        assert labels[-len(view) :] == sequences.labels(places * 0 + epoch, places).tolist()
    assert abs(np.mean(labels) - 0.5) < 4 * np.sqrt(0.5 / len(labels))


def test_a_segment_from_elsewhere_is_drawn_from_all_other_documents(make_pairs):
    view = make_pairs([[5] * 60, [3, 3], [6, 2, 4], [8] * 30])
    windows = np.repeat(np.arange(len(view)), 500)
    found = view.elsewhere(windows, key(3, np.arange(len(windows), dtype=np.uint64)))
    assert (view.documents(found) != view.documents(windows)).all()
    for window in range(len(view)):
        others = np.flatnonzero(view.documents(np.arange(len(view))) != view.documents(
            np.asarray([window])))  # fmt: skip
        counts = np.bincount(found[windows == window], minlength=len(view))
        expected = 500 / len(others)
        assert abs(counts[others] - expected).max() < 6 * np.sqrt(expected)


def test_lengths_do_not_tell_the_label(make_pairs):
    sequences = sequences_of(make_pairs(MANY))
    pairs = [pair for epoch in range(20) for pair in epoch_of(sequences, epoch)]
    for measure in (lambda a, b: len(a), lambda a, b: len(b), lambda a, b: len(a) + len(b)):
        of_label = [
            [measure(a, b) for a, b, label in pairs if label == wanted] for wanted in (0, 1)
        ]
        spread = np.sqrt(sum(np.var(lengths) / len(lengths) for lengths in of_label))
        difference = np.mean(of_label[0]) - np.mean(of_label[1])
        assert abs(difference) < max(5 * spread, 0.05 * np.mean(of_label[0]))


def test_borders_are_drawn_anew_in_each_epoch(make_pairs):
    view = make_pairs([[4] * 8] * 50)
    sequences = sequences_of(view, "mlm+sop")
    lengths = {min(len(a), len(b)) for epoch in range(5) for a, b, _ in epoch_of(sequences, epoch)}
    assert lengths == {4, 8, 12, 16}


# --------------------------------------------------------------- functions of (seed, epoch, place)


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 9),
       places=st.lists(st.integers(0, 99), min_size=1, max_size=9))  # fmt: skip
def test_a_pair_depends_on_nothing_but_seed_epoch_and_place(make_pairs, seed, epoch, places):
    view = make_pairs(MANY)
    sequences = sequences_of(view, seed=seed)
    whole, keys = sequences.batch(np.full(100, epoch), np.arange(100))
    some, some_keys = sequences.batch(np.full(len(places), epoch), np.asarray(places))
    together, alone = pairs_in(whole), pairs_in(some)
    assert alone == [together[place] for place in places]
    assert np.array_equal(some_keys, keys[places])
    num_tokens = sequences.num_tokens(np.full(len(places), epoch), np.asarray(places))
    assert num_tokens == some.lengths.sum()


def test_other_seeds_and_epochs_have_other_pairs_and_masks(make_pairs):
    view = make_pairs(MANY)
    places = np.arange(50)
    found, keys = set(), set()
    for seed in (1, 2):
        for epoch in (0, 1):
            chunks, mask_keys = sequences_of(view, seed=seed).batch(np.full(50, epoch), places)
            found.add(str(pairs_in(chunks)))
            keys.update(mask_keys.tolist())
    assert len(found) == 4
    assert len(keys) == 200


def test_weighted_sources_are_seen_by_their_weights(make_pairs):
    view = make_pairs(MANY, sources=[number % 200 // 100 for number in range(200)])
    sequences = sequences_of(view, weights=[1.0, 3.0])
    first, second = view.num_chunks_by_source.tolist()
    assert len(sequences) == first + 3 * second
    border = sum(map(sum, MANY[:100])) + 100
    firsts = [a[0] for a, _, _ in epoch_of(sequences)]
    assert sum(id_ >= border for id_ in firsts) == 3 * second


def test_the_documents_of_a_pair_are_told(make_pairs):
    view = make_pairs(MANY)
    sequences = sequences_of(view)
    starts = np.cumsum([0, *map(sum, MANY)])
    for place, (a, b, _) in enumerate(epoch_of(sequences)[:50]):
        (first, one), (second, other) = sequences.documents_at(place)
        assert (first, second) == (1, len(a) + 2)
        for document, segment in ((one, a), (other, b)):
            assert starts[document] <= segment[0] - 100 < starts[document + 1]


def test_chunks_and_pairs_are_both_sequences(make_pairs):
    names = [name for name in vars(Sequences) if not name.startswith("_")]
    for kind in (ChunkSequences, PairSequences):
        assert all(callable(getattr(kind, name)) for name in [*names, "__len__"])


# --------------------------------------------------------------------------------- the frame


def test_the_frame_is_the_tokenizers_own(tokenizer, byte_tokenizer):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert PairFrame.of(tokenizer) == PairFrame((cls,), (sep,), (sep,), tokenizer.pad_token_id)
    bos, eos = byte_tokenizer.bos_token_id, byte_tokenizer.eos_token_id
    assert PairFrame.of(byte_tokenizer).separator == (eos, eos)
    assert PairFrame.of(byte_tokenizer).prefix == (bos,)
    encoding = tokenizer("storage account", "key vault")
    assert encoding["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_a_pair_looks_as_the_tokenizer_would_make_it(tokenizer, make_store):
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"]
                     for text in ("create a storage account .", "the key is new ."))  # fmt: skip
    store = make_store([first + second])
    sentences = np.asarray([0, len(first)])
    view = PairView(store, sentences, np.zeros(1, np.int64), 20, PairFrame.of(tokenizer))
    place = np.zeros(1, np.int64)
    follows = (sequences_of(view, seed=seed) for seed in range(20))
    sequences = next(s for s in follows if not s.labels(place, place)[0])
    chunks, _ = sequences.batch(place, place)
    expected = tokenizer("create a storage account .", "the key is new .")
    assert chunks.input_ids[0].tolist() == expected["input_ids"]
    assert chunks.token_type_ids[0].tolist() == expected["token_type_ids"]
    assert chunks.word_starts[0, 1]
    assert not chunks.word_starts[0][chunks.special_tokens_mask[0]].any()


def test_no_room_for_two_sentences_is_refused(make_pairs):
    with pytest.raises(ConfigError, match="chunk_length 4 leaves no room for two sentences"):
        make_pairs([[3, 3]], length=4)


def test_keys_of_borders_and_masks_are_apart(make_pairs):
    view = make_pairs([[4] * 8] * 400)
    keys = key(0, np.arange(len(view)))
    borders = view.borders(np.arange(len(view)), keys)
    assert len(np.unique(borders - borders.min())) > 1
