import numpy as np
import pytest

from mlmtune.config import EvaluationConfig
from mlmtune.errors import DataError
from mlmtune.evaluation import retrieval_pool
from mlmtune.evaluation.retrieval_pool import RetrievalPool

UNKNOWN = 1


def pool_of(view, max_tokens=50, **settings):
    return RetrievalPool.of(view, EvaluationConfig(**settings), max_tokens, UNKNOWN)


def as_lists(texts):
    return [ids.tolist() for ids in texts]


def test_the_query_is_the_title_and_the_target_what_follows(view_of, drawn):
    documents = drawn(21)
    title, other = [7, 8, 9], [10, 11]
    first, second = documents[:2]
    documents[0] = [*title, *first]
    documents[1] = [*other, 5, *other, *other, *second]  # a token in between, and the title twice
    pool = pool_of(view_of(documents, [3, 2] + [0] * 19))
    assert as_lists(pool.queries[:2]) == [title, other]
    assert as_lists(pool.targets[:2]) == [first[:50], second[:50]]
    assert pool.num_titles == 2


def test_without_a_title_one_half_is_the_query_and_the_other_the_target(view_of, drawn):
    documents = drawn(21)
    pool = pool_of(view_of(documents), max_tokens=30)
    assert as_lists(pool.queries) == [ids[:30] for ids in documents]
    assert as_lists(pool.targets) == [ids[40:70] for ids in documents]


def test_texts_shorter_than_the_limit_have_few_lengths(view_of, drawn):
    documents = [ids[: 65 + number] for number, ids in enumerate(drawn(35, length=120))]
    pool = pool_of(view_of(documents), max_tokens=45)
    lengths = {len(ids) for ids in (*pool.queries, *pool.targets)}
    assert lengths == {32, 40, 45}


def test_a_document_that_is_its_title_again_and_again_is_cut_into_halves(view_of, drawn):
    documents = drawn(21)
    documents[0] = [7, 8] * 40
    pool = pool_of(view_of(documents, [2] + [0] * 20))
    assert as_lists([pool.queries[0], pool.targets[0]]) == [[7, 8] * 20] * 2
    assert pool.num_titles == 0


@pytest.mark.parametrize("num_pages", [2, 3])
def test_a_first_line_of_many_pages_is_no_title(view_of, drawn, num_pages):
    """Otherwise every page would be set aside for every other, and all of them found."""
    documents, line = drawn(24), [7, 8, 9]
    for number in range(num_pages):
        documents[number] = [*line, *documents[number]]
    pool = pool_of(view_of(documents, [3] * num_pages + [0] * (24 - num_pages)))
    assert pool.num_titles == (num_pages if num_pages < 3 else 0)
    expected = line if num_pages < 3 else documents[0][3:43]
    assert pool.queries[0].tolist() == expected
    assert pool.set_aside.any() == (num_pages < 3)


@pytest.mark.parametrize("has_titles", [True, False])
@pytest.mark.parametrize("place", [0, 30])
def test_boilerplate_is_neither_searched_for_nor_in(view_of, drawn, has_titles, place):
    bodies, banner = drawn(24), drawn(1, length=20, seed=1)[0]
    titles = drawn(24, length=4, seed=2) if has_titles else [[]] * 24
    pages = [
        [*title, *body[:place], *banner * (number < 3), *body[place:]]
        for number, (title, body) in enumerate(zip(titles, bodies, strict=True))
    ]
    without = [[*title, *body] for title, body in zip(titles, bodies, strict=True)]
    lengths = [4 * has_titles] * 24
    pool, expected = pool_of(view_of(pages, lengths)), pool_of(view_of(without, lengths))
    assert as_lists(pool.queries) == as_lists(expected.queries)
    assert as_lists(pool.targets) == as_lists(expected.targets)
    assert not pool.set_aside.any()


def test_what_a_few_pages_share_or_a_turn_of_phrase_stays(view_of, drawn):
    pages, phrase = drawn(24), drawn(1, length=12, seed=1)[0]
    paragraph = drawn(1, length=20, seed=2)[0]
    pages = [[*phrase, *page] for page in pages]
    pages[:2] = [[*paragraph, *page] for page in pages[:2]]
    pool = pool_of(view_of(pages), max_tokens=40)
    assert as_lists(pool.queries) == [page[:40] for page in pages]


def test_pages_that_are_nothing_but_boilerplate_keep_it(view_of, drawn):
    pages = drawn(24)
    pages[:3] = [pages[0]] * 3
    pool = pool_of(view_of(pages))
    assert as_lists(pool.queries[:3]) == [pages[0][:40]] * 3
    assert pool.set_aside[:3, :3].sum() == 6


def test_documents_that_are_all_alike_are_refused_in_one_line(view_of, drawn):
    pages = [*drawn(1) * 18, *drawn(6, seed=1)]
    with pytest.raises(DataError, match=r"nearly the same as 5\d.*; leave out near-dup") as error:
        pool_of(view_of(pages))
    assert "\n" not in str(error.value)


def test_unknown_tokens_make_no_texts_alike(view_of, drawn):
    documents = drawn(24)
    documents[0] = documents[1] = [UNKNOWN] * 80
    assert not pool_of(view_of(documents)).set_aside.any()


def test_the_pool_is_bounded_and_drawn_by_the_seed(view_of, drawn, monkeypatch):
    monkeypatch.setattr(retrieval_pool, "MOST_DOCUMENTS", 25)
    view = view_of(drawn(60) + drawn(5, length=20))  # the last five are too short
    pools = [pool_of(view, seed=seed).documents for seed in (0, 0, 1)]
    assert len(pools[0]) == 25
    assert pools[0].max() < 60
    assert np.array_equal(pools[0], pools[1])
    assert not np.array_equal(pools[0], pools[2])


def test_the_pool_reads_a_small_share_of_the_words_that_are_evaluated(view_of, drawn):
    """So retrieval costs little beside perplexity, also where the documents are short."""
    view = view_of(drawn(1000))  # of 40 words
    sizes = {draws: len(pool_of(view, mask_draws=draws)) for draws in (1, 2, 8, "auto")}
    assert sizes == {1: 60, 2: 120, 8: 300, "auto": 120}
    assert len(pool_of(view_of(drawn(60)), mask_draws=1)) == 50


@pytest.mark.parametrize(("long", "short"), [(19, 0), (19, 30), (1, 0), (0, 1)])
def test_too_few_documents_are_refused_in_one_line(view_of, drawn, long, short):
    view = view_of(drawn(long) + drawn(short, length=10))
    with pytest.raises(DataError, match=f"takes 20 .* has {long}; .* raise corpus") as error:
        pool_of(view)
    assert "\n" not in str(error.value)


def test_a_target_that_nearly_equals_the_right_one_is_no_error(view_of, drawn):
    documents = drawn(24)
    documents[1] = [*documents[1][:40], *documents[0][40:75], 5, 6, 7, 8, 9]
    titles = [0] * 22 + [3, 3]
    documents[23][:3] = documents[22][:3]
    pool = pool_of(view_of(documents, titles))
    expected = {(0, 1), (1, 0), (22, 23), (23, 22)}  # near-duplicates, and equal titles
    assert {*zip(*map(list, np.nonzero(pool.set_aside)), strict=True)} == expected
    scores = np.eye(24)
    scores[0, 1] = scores[22, 23] = 2.0
    assert (pool.ranks(scores) == 1).all()
    scores[0, 2] = 2.0
    assert pool.ranks(scores)[0] == 2


def test_a_model_that_tells_nothing_apart_finds_nothing(view_of, drawn):
    pool = pool_of(view_of(drawn(20)))
    assert (pool.ranks(np.ones((20, 20))) == 20).all()
