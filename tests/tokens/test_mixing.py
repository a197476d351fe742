"""Sources by weight: every epoch takes what the weights say, and nothing is drawn unevenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import ChunkingConfig
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.mixing import Mixture
from mlmtune.tokens.special_tokens import SpecialTokens

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


def mixture(sizes, drawn):
    return Mixture(np.asarray(sizes), np.asarray(drawn), 0, np.asarray([0]))


def epoch_of(mix, epoch, seed=1):
    places = np.arange(len(mix))
    chunks, occurrences = mix.draw(seed, np.full(len(mix), epoch), places)
    return list(zip(chunks.tolist(), occurrences.tolist(), strict=True))


@given(sizes=SIZES, data=st.data(), epoch=st.integers(0, 20))
def test_an_epoch_takes_of_each_source_what_its_weight_says(sizes, data, epoch):
    drawn = [data.draw(st.integers(1, 3 * size)) for size in sizes]
    items = epoch_of(mixture(sizes, drawn), epoch)
    assert len(set(items)) == len(items)  # no chunk twice under the same masks
    first = 0
    for size, share in zip(sizes, drawn, strict=True):
        counts = np.bincount(
            [chunk - first for chunk, _ in items if first <= chunk < first + size], minlength=size
        )
        assert counts.sum() == share
        # Each chunk as often as any other, but for what a round that is cut leaves over.
        assert counts.max() - counts.min() <= (2 if share % size else 0)
        first += size


def test_two_halves_make_a_whole():
    mix = mixture([10, 7], [5, 7])
    halves = [{c for c, _ in epoch_of(mix, epoch) if c < 10} for epoch in (0, 1, 2, 3)]
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(10))
    assert halves[0] != halves[2]  # drawn anew each time


def test_a_source_seen_three_times_has_masks_of_its_own_each_time():
    items = epoch_of(mixture([4, 2], [12, 2]), 5)
    assert sorted(items) == [(c, o) for c in range(4) for o in range(3)] + [(4, 0), (5, 0)]


def test_sources_are_shuffled_together_and_seeds_differ():
    mix = mixture([50, 50], [50, 50])
    chunks = [c for c, _ in epoch_of(mix, 0)]
    assert 15 < sum(c < 50 for c in chunks[:50]) < 35
    assert chunks != [c for c, _ in epoch_of(mix, 1)]
    assert chunks != [c for c, _ in epoch_of(mix, 0, seed=2)]


def test_any_place_can_be_asked_for_alone():
    mix = mixture([9, 5], [4, 11])
    whole = epoch_of(mix, 3)
    for place in (14, 0, 7):
        chunks, occurrences = mix.draw(1, np.asarray([3]), np.asarray([place]))
        assert (chunks[0], occurrences[0]) == whole[place]


@pytest.fixture
def view(make_store, tokenizer):
    """Three sources of 40, 0 and 20 tokens; chunks have room for 8."""
    store = make_store([[7] * 25, [7] * 15, [], [8] * 20], sources=[0, 0, 1, 2])

    def cut(*, separates_sources):
        return ChunkView.of(
            store, np.arange(4), ChunkingConfig(chunk_length=10), SpecialTokens.of(tokenizer), 0,
            separates_sources=separates_sources,
        )  # fmt: skip

    return cut


def test_weights_count_chunks_and_tokens(view):
    cut = view(separates_sources=True)
    assert cut.num_chunks_by_source.tolist() == [6, 0, 3]  # 41 tokens with a separator; 20
    assert cut.num_tokens_by_source.tolist() == [41 + 12, 0, 20 + 6]
    assert cut.num_tokens_by_source.sum() == cut.num_tokens
    mix = Mixture.of(cut, np.asarray([0.5, 1.0, 3.0]))
    assert mix.num_drawn.tolist() == [3, 0, 9]
    assert mix.num_tokens == round(53 / 2 + 26 * 3)
    assert mix.num_body_tokens_by_source.tolist() == [20, 0, 60]


def test_a_weight_too_small_for_a_chunk_takes_one(view):
    mix = Mixture.of(view(separates_sources=True), np.asarray([0.001, 1.0, 1.0]))
    assert mix.num_drawn.tolist() == [1, 0, 3]


def test_no_chunk_holds_two_weighted_sources(view):
    cut = view(separates_sources=True)
    chunks = cut.batch(np.arange(len(cut)))
    for ids in chunks.input_ids:
        assert not {7, 8} <= set(ids.tolist())
    body = chunks.input_ids[~chunks.special_tokens_mask]
    assert np.bincount(body, minlength=9)[7:].tolist() == [40, 20]


def test_without_weights_the_stream_runs_on_over_sources(view):
    cut = view(separates_sources=False)
    mix = Mixture.of(cut, np.ones(3))
    assert mix.num_drawn.tolist() == [len(cut)] == [8]  # 25 + 1 + 15 + 1 + 20 tokens
    assert mix.num_tokens == cut.num_tokens == 62 + 16
