"""Every scheme of tags marks the same entities in IOB2, and faults are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from mlmtune.classification.tags import SCHEMES, Tags, scheme_of, split_tag, to_iob2

TYPES = ("PER", "Cell-Line")
PIECES = st.lists(st.tuples(st.sampled_from(["", *TYPES]), st.integers(1, 4)), max_size=6)
"""Runs of tokens: outside, or an entity of a type."""


def iob2(pieces: list[tuple[str, int]]) -> Tags:
    tags: list[str] = []
    for kind, size in pieces:
        tags += [f"B-{kind}", *[f"I-{kind}"] * (size - 1)] if kind else ["O"] * size
    return tuple(tags)


def in_scheme(pieces: list[tuple[str, int]], scheme: str) -> Tags:
    begin, inside, *ends = SCHEMES[scheme]
    if not ends:
        return iob2(pieces)
    end, single = (ends[0], ends[1])
    if scheme == "BMEWO":
        end, single = "E", "W"
    if scheme in ("BIOES", "BMES"):
        end, single = "E", "S"
    tags: list[str] = []
    for kind, size in pieces:
        if not kind:
            tags += ["O"] * size
        elif size == 1:
            tags.append(f"{single}-{kind}")
        else:
            tags += [f"{begin}-{kind}", *[f"{inside}-{kind}"] * (size - 2), f"{end}-{kind}"]
    return tuple(tags)


def iob1(tags: Tags) -> Tags:
    before = ("O", *tags)
    return tuple(
        f"I{tag[1:]}" if tag[0] == "B" and previous[2:] != tag[2:] else tag
        for previous, tag in zip(before, tags, strict=False)
    )


@given(st.lists(PIECES, min_size=1, max_size=3), st.sampled_from(sorted(SCHEMES)))
def test_every_scheme_marks_the_same_entities(
    sentences: list[list[tuple[str, int]]], scheme: str
) -> None:
    given_tags = [in_scheme(pieces, scheme) for pieces in sentences]
    expected = [iob2(pieces) for pieces in sentences]
    result = to_iob2(given_tags, scheme)
    assert (result.tags, result.faults) == (expected, [])
    prefixes = [(split_tag(tag) or ("?",))[0] for tags in given_tags for tag in tags]
    recognised = scheme_of(prefixes)
    assert recognised is not None
    assert to_iob2(given_tags, recognised).tags == expected


@given(st.lists(PIECES, min_size=1, max_size=3))
def test_iob1_is_recognised_and_loses_nothing(sentences: list[list[tuple[str, int]]]) -> None:
    expected = [iob2(pieces) for pieces in sentences]
    given_tags = [iob1(tags) for tags in expected]
    result = to_iob2(given_tags, "IOB2")
    assert (result.tags, result.faults) == (expected, [])
    assert result.num_rewritten == sum(
        a != b
        for tags, others in zip(expected, given_tags, strict=True)
        for a, b in zip(tags, others, strict=True)
    )
    assert (result.scheme == "IOB1") == (result.num_rewritten > 0)


ANY_TAG = st.one_of(
    st.just("O"), st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(TYPES))
)


@given(st.lists(ANY_TAG, max_size=8).map(tuple))
def test_tags_that_break_their_scheme_are_read_as_seqeval_reads_them(tags: Tags) -> None:
    (written,) = to_iob2([tags], "BIOES").tags
    assert get_entities(list(written)) == get_entities(list(tags))
    assert to_iob2([written], "IOB2").tags == [written]
    assert not to_iob2([written], "IOB2").faults


@pytest.mark.parametrize(
    ("tags", "scheme", "faults"),
    [
        ("O I-A O B-A", "IOB2", [1]),
        ("B-A I-B O", "IOB2", [1]),
        ("B-A O S-A", "BIOES", [1]),
        ("S-A I-A E-A", "BIOES", [1]),
        ("O B-A", "BIOES", [1]),
        ("B-A L-A L-A", "BILOU", [2]),
    ],
)
def test_each_fault_has_its_place(tags: str, scheme: str, faults: list[int]) -> None:
    assert [place for _, place in to_iob2([tuple(tags.split())], scheme).faults] == faults


@pytest.mark.parametrize("tag", ["PER", "B_PER", "b-PER", "X-PER", "B-", "B- ", "0", ""])
def test_what_is_no_tag(tag: str) -> None:
    assert split_tag(tag) is None


def test_schemes_do_not_mix() -> None:
    assert scheme_of("BISL") is None
    assert scheme_of(["", "I"]) == "IOB2"
