"""Data selection: what a score is, and that hidden pages of a domain are found by it."""

import tempfile
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.console import Console
from mlmtune.corpus import cleaning
from mlmtune.corpus.domain_selection import (
    NUM_BUCKETS,
    log_ratios,
    ngram_counts,
    ranking,
    score,
)
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import DataError

WORDS = st.lists(st.sampled_from("abcdefg"), max_size=30)
COUNTS = st.lists(st.integers(0, 50), min_size=6, max_size=6).map(
    lambda few: np.asarray(few + [0] * (NUM_BUCKETS - 6))
)


def total(texts):
    return sum(map(ngram_counts, texts), np.zeros(NUM_BUCKETS, np.int64))


@given(words=WORDS, size=st.integers(1, 9))
def test_words_and_pairs_are_counted_once_whatever_the_slices(words, size):
    text = " ".join(words)
    counts = ngram_counts(text)
    assert counts.sum() == max(0, 2 * len(words) - 1)
    # None of these seven words and 49 pairs share a bucket.
    assert sorted(counts[counts > 0]) == sorted(
        (Counter(words) + Counter(pairwise(words))).values()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", size)
        assert (ngram_counts(text) == counts).all()


@given(domain=COUNTS, pool=COUNTS)
def test_the_ratios_lead_from_the_pool_to_a_distribution_of_the_domain(domain, pool):
    in_pool = (pool + 1) / (pool + 1).sum()
    in_domain = in_pool * np.exp(log_ratios(domain, pool))
    assert in_domain.sum() == pytest.approx(1.0)
    assert np.allclose(log_ratios(domain * 0, pool), 0.0)
    frequent = np.exp(log_ratios(domain * 10**9, pool)) * in_pool
    assert not domain.any() or np.allclose(frequent, domain / domain.sum(), atol=1e-4)


def test_a_long_text_has_the_mean_of_its_ngrams_and_a_short_one_nearly_that_of_the_pool():
    ratios = log_ratios(total(["the disk of the server"] * 99), total(["a film of the year"] * 99))
    long, short, empty = (
        score(ngram_counts(text), ratios, -0.5) for text in ("server disk " * 5000, "server", "")
    )
    mean = ngram_counts("server disk " * 5000) @ ratios / 19_999
    assert long == pytest.approx(mean, abs=0.02)
    assert empty == -0.5 < short < 0 < long


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=12), draw=st.randoms()
)
def test_the_choice_does_not_depend_on_the_order(scores, draw):
    documents = [(score, hash_) for hash_, score in enumerate(scores)]
    shuffled = draw.sample(documents, len(documents))

    def ranked(of):
        values, hashes = map(np.asarray, zip(*of, strict=True))
        return [of[n] for n in ranking(values, hashes.astype(np.uint64))]

    expected = sorted(documents, key=lambda document: (-document[0], document[1]))
    assert ranked(documents) == ranked(shuffled) == expected


SUBJECTS = {
    "server": "deploy the server disk to a cluster in the region and set the role",
    "film": "the film tells a story of the year and its actors make a scene of it",
}


def page(about, number):
    """A text that has most of its words from its subject."""
    draw = np.random.default_rng([number, len(about)])
    return " ".join([*draw.choice(SUBJECTS[about].split(), size=380), str(number), about])


@pytest.fixture
def folders(tmp_path):
    """Write a pool of films with some pages about servers, and more of these as the domain."""
    texts = {
        "pool": {f"{n:02}-film.txt": page("film", n) for n in range(36)}
        | {f"{n:02}-server.txt": page("server", n) for n in range(3, 36, 9)},
        "domain": {f"{n}.txt": page("server", 100 + n) for n in range(12)},
    }
    for name, files in texts.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    return tmp_path


def read(tmp_path, *names, fraction=0.1, **fields):
    """Return the kept ids of the pool, and the funnel."""
    sources = {
        "pool": {"select": {"like": "domain", "fraction": fraction}},
        "domain": {},
    }
    config = CorpusConfig(
        sources=[
            SourceConfig(format="text", path=str(tmp_path / n), name=n, **sources[n]) for n in names
        ],
        **fields,
    )
    with tempfile.TemporaryDirectory() as cache:
        corpus = CorpusText(config, Console(is_quiet=True), cache).listed().read()
        pool = names.index("pool")
        kept = sorted(document.id for document in corpus.documents() if document.source == pool)
    return kept, corpus.funnel.to_json()


HIDDEN = ["03-server.txt", "12-server.txt", "21-server.txt", "30-server.txt"]


def test_hidden_pages_of_a_domain_are_found_and_all_others_counted(folders):
    kept, counts = read(folders, "pool", "domain")
    assert kept == HIDDEN
    assert counts["sources"]["pool"]["documents"]["left_out"] == {"not_selected": 36}
    assert counts["sources"]["domain"]["documents"]["left_out"] == {}
    (selected,) = counts["selections"]
    assert (selected["source"], selected["like"]) == ("pool", "domain")
    assert [selected[key] for key in ("num_kept", "num_left_out", "num_alike")] == [4, 36, 4]
    most, least = (
        [(scored["document"], scored["score"]) for scored in selected[key]]
        for key in ("most_alike", "least_alike")
    )
    assert sorted(name for name, _ in most[:4]) == [f"pool: {id_}" for id_ in HIDDEN]
    assert all("-film" in name for name, _ in least)
    assert len(most) == len(least) == 5
    scores = [value for _, value in most + least[::-1]]
    assert scores == sorted(scores, reverse=True)
    assert most[3][1] == selected["lowest_kept"] > 0 > most[4][1]
    assert selected["domain_median"] > 0


def test_sources_processes_and_borders_of_parts_change_nothing(folders, monkeypatch):
    kept, counts = read(folders, "pool", "domain", fraction=0.4)
    monkeypatch.setattr("mlmtune.corpus.corpus.SMALL_BYTES", 0)
    monkeypatch.setattr("mlmtune.corpus.engine.num_processors", lambda: 2)
    monkeypatch.setattr("mlmtune.corpus.dividing.PART_FILES", 12)
    monkeypatch.setattr("mlmtune.corpus.domain_selection._DOCUMENTS_AT_ONCE", 5)
    again, counts_again = read(folders, "domain", "pool", fraction=0.4)
    assert again == kept
    assert len(kept) == 16
    assert counts_again["selections"] == counts["selections"]


def test_held_out_text_of_the_domain_chooses_nothing(folders):
    """Only the training side differs from what it is with other validation text."""
    _, before = read(folders, "pool", "domain", validation_fraction=0.3)
    _, other = read(folders, "pool", "domain", validation_fraction=0.6)
    _, by_chunk = read(folders, "pool", "domain", split_by="chunk")
    medians = [counts["selections"][0]["domain_median"] for counts in (before, other, by_chunk)]
    assert len(set(medians)) == 3  # the fewer pages are known, the less is the domain like itself
    assert medians == [medians[0], min(medians), max(medians)]


def test_a_pool_keeps_at_least_one_document_and_may_be_empty(folders):
    kept, _ = read(folders, "pool", "domain", fraction=0.001)
    assert len(kept) == 1
    for path in (folders / "pool").iterdir():
        path.write_text("")
    kept, counts = read(folders, "pool", "domain")
    assert kept == counts["selections"] == []


def test_a_domain_without_words_is_refused(folders):
    for number, path in enumerate((folders / "domain").iterdir()):
        path.write_text("! ? " * number)
    with pytest.raises(DataError, match=r"corpus.sources\[0\].select.like: domain has no words"):
        read(folders, "pool", "domain")
