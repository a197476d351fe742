"""The search by tasks finds what the search on one machine finds, document for document."""

import pickle
from collections.abc import Generator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus import band_search
from mlmtune.corpus.band_search import Search, SignatureFiles, find_in_band, in_slices
from mlmtune.corpus.engine import Engine, Work
from mlmtune.corpus.near_duplicates import NearDuplicate, find_near_duplicates

NO_WORDS = np.iinfo(np.uint32).max
NUM_PERM = 16


class Elsewhere(Engine):
    """Does the work here, as another machine would: with nothing but what can be sent there."""

    is_remote = True

    def map(
        self, function: Any, items: Sequence[Any], shared: Any, work: Work, *, sizes: Sequence[int]
    ) -> Generator[Any, None, None]:
        assert len(sizes) == len(items)
        for item in items:
            sent = pickle.loads(pickle.dumps((function, item, shared)))
            yield pickle.loads(pickle.dumps(sent[0](*sent[1:])))


def found_by_tasks(
    rows: NDArray[np.uint32], sizes: list[int], order: NDArray[np.int64], threshold: float
) -> list[NearDuplicate]:
    config = NearDuplicatesConfig(threshold=threshold, num_perm=rows.shape[1])
    with TemporaryDirectory() as folder:
        files = SignatureFiles.in_folder(Path(folder), config, sizes)
        for number, of_slice in enumerate(np.split(rows, np.cumsum(sizes)[:-1])):
            files.write(number, iter(np.array_split(of_slice, 2)))
        return files.find_near_duplicates(order, Elsewhere())


@st.composite
def corpora(draw: st.DrawFn) -> tuple[NDArray[np.uint32], list[int], NDArray[np.int64]]:
    """Signatures with planted near-duplicates, in slices, and an order of some of them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    num_documents = sum(sizes)
    rows = generator.integers(0, NO_WORDS, (num_documents, NUM_PERM), dtype=np.uint32)
    for document in range(1, num_documents):
        match draw(st.sampled_from(["new", "copy", "copy", "mixture", "without words"])):
            case "copy":
                is_copied = generator.random(NUM_PERM) < draw(st.sampled_from([1.0, 0.9, 0.7]))
                source = rows[generator.integers(document)]
                rows[document] = np.where(is_copied, source, rows[document])
            case "mixture":  # nearly equals two that do not equal each other
                one, other = rows[generator.integers(document, size=2)]
                rows[document] = np.where(np.arange(NUM_PERM) < NUM_PERM // 2, one, other)
            case "without words":
                rows[document] = NO_WORDS
    order = generator.permutation(num_documents)[: draw(st.integers(0, num_documents))]
    return rows, sizes, order


@settings(max_examples=40)
@given(
    corpus=corpora(),
    threshold=st.sampled_from([0.5, 0.8, 0.95]),
    documents_per_search=st.sampled_from([5, 20, band_search.DOCUMENTS_PER_SEARCH]),
)
def test_tasks_find_what_one_machine_finds(corpus, threshold, documents_per_search):
    rows, sizes, order = corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(band_search, "DOCUMENTS_PER_SEARCH", documents_per_search)
        found = found_by_tasks(rows, sizes, order, threshold)
    assert found == find_near_duplicates(rows, order, threshold)


def test_a_search_waits_for_the_files_of_other_machines(tmp_path):
    """A task that misses files fails, and is run again; else it would miss near-duplicates."""
    files = SignatureFiles.in_folder(tmp_path, NearDuplicatesConfig(num_perm=NUM_PERM), [1, 1])
    files.write(0, [np.zeros((1, NUM_PERM), dtype=np.uint32)])
    with pytest.raises(FileNotFoundError, match="files of other machines are missing"):
        find_in_band(Search(band=0, number=0, num_ranges=1), files)


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=40), most=st.integers(1, 9))
def test_slices_hold_every_block_once_and_are_as_few_as_allowed(sizes, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(band_search, "NUM_SLICES", most)
        slices = in_slices(sizes)
    assert [block for part in slices for block in range(len(sizes))[part]] == [*range(len(sizes))]
    assert 1 <= len(slices) <= most
    assert all(sizes[part] for part in slices)
    assert len(slices) <= max(sum(sizes) // band_search.DOCUMENTS_PER_SLICE, 1)
