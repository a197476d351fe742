import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus.funnel import Funnel, Overlap, Pair, Scored, Selected, SourceFunnel

NAMES = ("empty", "duplicate", "overlap")
STEP_NAMES = ("links", "markup")


def counts_of(names):
    return st.dictionaries(st.sampled_from(names), st.integers(1, 99)).map(Counter)


SOURCES = st.builds(
    SourceFunnel,
    files_read=st.integers(0, 99),
    files_left_out=counts_of(NAMES),
    documents_kept=st.integers(0, 99),
    documents_left_out=counts_of(NAMES),
    characters_found=st.integers(0, 99),
    cleaned_away=counts_of(STEP_NAMES),
    characters_left_out=counts_of(NAMES),
    characters_kept=st.integers(0, 99),
)


@given(one=SOURCES, other=SOURCES)
def test_the_total_is_the_sum_of_the_sources(one, other):
    funnel = Funnel({"one": one, "other": other})
    counts = json.loads(json.dumps(funnel.to_json()))
    for what, done in (("files", "read"), ("documents", "kept"), ("characters", "kept")):
        parts = [counts[what], *(counts["sources"][name][what] for name in ("one", "other"))]
        total, first, second = parts
        assert total["found"] == first["found"] + second["found"]
        assert total[done] == first[done] + second[done]
        for reason in NAMES:
            assert total["left_out"].get(reason, 0) == (
                first["left_out"].get(reason, 0) + second["left_out"].get(reason, 0)
            )
        if what != "characters":
            assert total["found"] == total[done] + sum(total["left_out"].values())


def test_steps_and_reasons_are_in_the_order_of_work_and_none_is_zero():
    source = SourceFunnel(
        cleaned_away=Counter(markup=-1, images=5, tables=0),
        documents_left_out=Counter(overlap=1, broken=2, empty=0),
    )
    counts = source.to_json()
    assert list(counts["characters"]["cleaned_away"].items()) == [("images", 5), ("markup", -1)]
    assert list(counts["documents"]["left_out"].items()) == [("broken", 2), ("overlap", 1)]


def test_examples_are_plain_json():
    funnel = Funnel(
        {}, duplicates=[Pair("s: a", "s: b", 1.0)], overlaps=[Overlap("s: c", "some words")],
        selections=[Selected("s", "t", 1, 1, 0, 0.2, 0.9, [Scored("s: a", 0.2)], [])],
    )  # fmt: skip
    counts = json.loads(json.dumps(funnel.to_json()))
    assert counts["duplicates"] == [{"document": "s: a", "repeats": "s: b", "similarity": 1.0}]
    assert counts["overlaps"] == [{"document": "s: c", "words": "some words"}]
    (selected,) = counts["selections"]
    assert selected["like"] == "t"
    assert selected["most_alike"] == [{"document": "s: a", "score": 0.2}]


def test_summary_is_one_line_with_each_reason():
    source = SourceFunnel(
        files_read=1, files_left_out=Counter(binary=1), documents_left_out=Counter(too_short=1)
    )
    assert Funnel({"a": source}).summary() == (
        "2 files found, 1 read (1 binary); 1 documents found, 0 kept (1 too_short)"
    )
