"""Decisions over documents: against a plain loop, and one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.filtering import (
    OUTCOMES,
    DocumentTable,
    leave_out_by_content,
    leave_out_repeated,
)
from mlmtune.corpus.sources import CorpusSource


def config(**fields):
    return CorpusConfig(sources=[SourceConfig(format="text", path="x")], **fields)


def table_of(hashes_by_source, characters=None, shares=None, probabilities=None):
    sizes = [len(hashes) for hashes in hashes_by_source]
    hashes = np.asarray([h for source in hashes_by_source for h in source], dtype=np.uint64)
    offsets = np.cumsum([0, *sizes])
    return DocumentTable(
        part_offsets=offsets,
        source_offsets=offsets,
        content_hashes=hashes,
        num_characters=np.asarray(characters or [1] * len(hashes), dtype=np.int32),
        letter_shares=np.asarray(shares or [1.0] * len(hashes), dtype=np.float32),
        language_probabilities=np.asarray(probabilities or [1.0] * len(hashes), dtype=np.float32),
        outcomes=np.zeros(len(hashes), dtype=np.uint8),
    )


def sources_of(kinds, limits):
    return tuple(
        CorpusSource(
            SourceConfig(format="text", path="x", max_documents=limit),
            str(n),
            f"corpus.sources[{n}]",
            "validation" if kind else "train",
        )
        for n, (kind, limit) in enumerate(zip(kinds, limits, strict=True))
    )


def outcomes(table):
    return [OUTCOMES[outcome] for outcome in table.outcomes]


def test_lengths_letters_and_languages_are_looked_at_in_this_order():
    table = table_of(
        [[1, 2, 3, 4, 5]],
        characters=[2, 50, 20, 5, 5],
        shares=[0.0, 0.0, 0.1, 0.5, 0.5],
        probabilities=[0.0, 0.0, 0.0, 0.09, 0.11],
    )
    leave_out_by_content(table, config(min_characters=3, max_characters=40, min_letter_share=0.5))
    assert outcomes(table) == ["too_short", "too_long", "few_letters", "other_language", "kept"]


def plain_loop(hashes_by_source, kinds, deduplicate):
    """What `leave_out_repeated` is to do, one document at a time."""
    result, shut_out = [], set()
    for hashes, validation in zip(hashes_by_source, kinds, strict=True):
        here = set()
        kept = []
        for hash_ in hashes:
            compares = deduplicate or not validation
            repeated = (compares and hash_ in shut_out) or (deduplicate and hash_ in here)
            result.append("duplicate" if repeated else "kept")
            if not repeated:
                here.add(hash_)
                kept.append(hash_)
        if deduplicate or validation:
            shut_out.update(kept)
    return result


@given(
    hashes=st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4),
    num_validation=st.integers(0, 2),
    deduplicate=st.booleans(),
)
def test_duplicates_are_those_of_a_plain_loop(hashes, num_validation, deduplicate):
    kinds = [number < num_validation for number in range(len(hashes))]
    table = table_of(hashes)
    examples = leave_out_repeated(
        table, sources_of(kinds, [None] * len(hashes)), config(deduplicate=deduplicate)
    )
    assert outcomes(table) == plain_loop(hashes, kinds, deduplicate)
    duplicates = np.flatnonzero(table.outcomes == OUTCOMES.index("duplicate"))
    assert [document for document, _ in examples] == duplicates[: len(examples)].tolist()
    assert len(examples) == min(len(duplicates), 10)
    for document, first in examples:
        assert first < document
        assert table.content_hashes[document] == table.content_hashes[first]
        assert table.outcomes[first] == 0


@pytest.mark.parametrize("limit", [1, 3, 9])
def test_a_sample_is_of_its_size_and_shuts_out_its_equals_alone(limit):
    hashes = list(range(6))
    table = table_of([hashes, hashes])
    leave_out_repeated(table, sources_of([False, False], [limit, None]), config())
    first, second = outcomes(table)[:6], outcomes(table)[6:]
    assert first.count("kept") == min(limit, 6)
    assert first.count("not_sampled") == 6 - min(limit, 6)
    assert [a == "kept" for a in first] == [b == "duplicate" for b in second]


def test_rows_and_sources_are_found_by_their_offsets():
    table = table_of([[1, 2], [], [3]])
    table.leave_out(np.asarray([0]), "overlap")
    assert table.kept().tolist() == [1, 2]
    found = [(part, rows.tolist()) for part, rows in table.by_part(table.kept())]
    assert found == [(0, [1]), (2, [0])]
    assert table.of_source(2) == slice(2, 3)
