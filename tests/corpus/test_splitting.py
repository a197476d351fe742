import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.splitting import validation_mask
from mlmtune.errors import DataError


def config(**settings):
    return CorpusConfig(sources=[SourceConfig(format="text", path="x")], **settings)


def split(hashes, **settings):
    hashes = np.asarray(hashes, dtype=np.uint64)
    return validation_mask(hashes, np.zeros(len(hashes), dtype=int), config(**settings))


hashes = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=50, unique=True)
fractions = st.floats(0.01, 0.99)


@given(hashes=hashes, fraction=fractions, seed=st.integers(0, 2**63 - 1))
def test_both_sides_have_a_document(hashes, fraction, seed):
    mask = split(hashes, validation_fraction=fraction, split_seed=seed)
    assert 0 < mask.sum() < len(hashes)


@given(hashes=hashes, more=hashes, data=st.data())
def test_adding_documents_moves_none(hashes, more, data):
    # Enough documents that neither side is filled by the rule for tiny corpora.
    base = list(range(200))
    order = data.draw(st.permutations([*hashes, *more]))
    before = dict(zip(base, split(base, validation_fraction=0.3), strict=True))
    after = split([*order, *base], validation_fraction=0.3)[len(order) :]
    assert dict(zip(base, after, strict=True)) == before


def test_the_fraction_is_met_and_the_seed_decides():
    hashes = range(20_000)
    mask = split(hashes, validation_fraction=0.05)
    assert abs(mask.mean() - 0.05) < 0.006
    assert not np.array_equal(mask, split(hashes, validation_fraction=0.05, split_seed=1))


def test_a_larger_fraction_only_adds_to_validation():
    small = split(range(1000), validation_fraction=0.1)
    assert split(range(1000), validation_fraction=0.3)[small].all()


def test_given_documents_are_the_validation_side():
    held_out = [SourceConfig(format="text", path="y")]
    sources = np.array([0, 1, 0])
    mask = validation_mask(
        np.arange(3, dtype=np.uint64), sources, config(validation_sources=held_out)
    )
    assert mask.tolist() == [True, False, True]


def test_a_single_document_cannot_be_split():
    with pytest.raises(DataError, match=r"validation_sources, or set corpus\.split_by: chunk"):
        split([7])


def test_nothing_to_train_on_is_an_error():
    all_given = config(validation_sources=[SourceConfig(format="text", path="y")])
    with pytest.raises(DataError, match="none is left to train on"):
        validation_mask(np.arange(2, dtype=np.uint64), np.zeros(2, dtype=int), all_given)


@given(hashes=hashes, seed=st.integers(0, 2**63 - 1), data=st.data())
def test_replayed_text_is_trained_on_and_moves_no_other_document(hashes, seed, data):
    replayed = SourceConfig(format="text", path="y", replay=0.5)
    domain = SourceConfig(format="text", path="x")
    hashes = np.asarray(hashes, dtype=np.uint64)
    more = np.asarray(data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=9)), np.uint64)
    alone = validation_mask(
        hashes, np.zeros(len(hashes), int), CorpusConfig(sources=[domain], split_seed=seed)
    )
    both = validation_mask(
        np.concatenate([hashes, more]),
        np.repeat([0, 1], [len(hashes), len(more)]),
        CorpusConfig(sources=[domain, replayed], split_seed=seed),
    )
    assert both.tolist() == alone.tolist() + [False] * len(more)
