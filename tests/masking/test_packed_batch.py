import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.masking.collator import IGNORE_INDEX, MaskedBatch
from mlmtune.masking.packed_batch import PackedBatch
from mlmtune.masking.places import LONGEST_ROW, Places

PAD, FIRST_POSITION = 1, 5
lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=20).map(np.asarray)


@given(lengths=lengths_of, max_row_length=st.integers(1, 60))
def test_each_sequence_has_a_place_of_its_own_in_rows_that_are_not_too_long(
    lengths, max_row_length
):
    places = Places.smallest(lengths, max_row_length)
    longest = lengths.max()
    if places is None:
        return
    num_rows, row_length = places.shape
    assert num_rows * row_length < len(lengths) * longest
    assert row_length <= max(longest, min(max_row_length, LONGEST_ROW * longest))
    taken = np.zeros(places.shape, dtype=int)
    for (row, start, end), length in zip(places, lengths, strict=True):
        assert end - start == length
        taken[row, start:end] += 1
    assert taken.sum() == lengths.sum()
    assert taken.max() == 1


def test_sequences_of_one_length_stay_as_they_are():
    assert Places.smallest(np.full(9, 16), 512) is None
    assert Places.smallest(np.asarray([7]), 512) is None


@pytest.mark.parametrize("num_sequences", [8, 32])
def test_little_is_left_of_padding(num_sequences):
    draw = np.random.default_rng(0)
    num_tokens = num_positions = 0
    for _ in range(100):
        lengths = np.minimum(draw.geometric(1 / 60, num_sequences), 96)
        places = Places.smallest(lengths, 512)
        num_tokens += lengths.sum()
        num_positions += np.prod(places.shape) if places else num_sequences * lengths.max()
    assert num_tokens / num_positions > {8: 0.9, 32: 0.95}[num_sequences]


def padded_batch(lengths, data):
    """A batch whose tokens are all different."""
    shape = len(lengths), int(lengths.max())
    is_token = torch.from_numpy(np.arange(shape[1]) < lengths[:, None])
    ids = torch.where(is_token, torch.arange(is_token.numel()).reshape(shape) + 10, PAD)
    places = is_token.reshape(-1).nonzero().squeeze(1)
    chosen = data.draw(st.lists(st.sampled_from(places.tolist()), unique=True).map(sorted))
    masked = torch.tensor(chosen, dtype=torch.int64)
    labels = torch.full(shape, IGNORE_INDEX)
    labels.view(-1)[masked] = masked + 1000
    return MaskedBatch(
        ids, labels, masked, len(masked), is_token.long(), is_token.long() * (ids % 2)
    )


@given(lengths=lengths_of, data=st.data())
def test_a_token_keeps_all_that_it_has(lengths, data):
    batch = padded_batch(lengths, data)
    places = Places.smallest(lengths, 512)
    if places is None:
        return
    packed = PackedBatch.of(
        batch, places, pad_token_id=PAD, first_position=FIRST_POSITION, attention=lambda _: {}
    )
    inside = packed.sequences >= 0
    assert int(inside.sum()) == packed.num_tokens == lengths.sum()
    assert (packed.input_ids[~inside] == PAD).all()
    assert (packed.labels[~inside] == IGNORE_INDEX).all()
    for sequence, length in enumerate(lengths):
        here = packed.sequences == sequence
        for name in ("input_ids", "labels", "token_type_ids"):
            assert torch.equal(getattr(packed, name)[here], getattr(batch, name)[sequence, :length])
        assert torch.equal(packed.position_ids[here], torch.arange(length) + FIRST_POSITION)
    # Predictions are in the order of the padded batch, so that scores find their tokens.
    assert torch.equal(packed.masked_labels(), batch.masked_labels())
    assert packed.num_masked_tokens == batch.num_masked_tokens
    assert set(packed.model_inputs()) == {"input_ids", "token_type_ids", "position_ids"}
    assert packed.to(torch.device("cpu")).places is places
