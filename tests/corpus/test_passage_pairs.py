"""Pairs of texts that belong together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus.cleaning import words
from mlmtune.corpus.passage_pairs import LONGEST, SHORT, SHORTEST, PassagePairs, passages


def text_of(number: int, num_words: int) -> str:
    return " ".join(f"word{number}x{place}" for place in range(num_words))


@given(st.lists(st.text("ab \n.中", max_size=400), max_size=3))
def test_passages_have_all_words_but_a_short_rest(parts: list[str]) -> None:
    text = " \n".join(parts)
    cut = list(passages(text))
    found = [word for passage in cut for word in words(passage)]
    assert found == words(text)[: len(found)]
    assert len(words(text)) - len(found) < SHORTEST
    assert all(len(words(passage)) <= LONGEST for passage in cut)
    assert all(len(words(passage)) >= SHORT for passage in cut[:-1])


def test_a_passage_ends_with_a_line() -> None:
    lines = [text_of(0, 50), text_of(1, 50), text_of(2, 200)]
    first, second, third, fourth, *rest = passages("\n".join(lines))
    assert [first, second] == lines[:2]
    assert f"{third} {fourth}" == " ".join(lines[2].split()[: 2 * LONGEST])
    assert rest == []  # eight words are too few


def test_pairs_are_titles_with_passages_and_neighbours() -> None:
    bodies = [f"{text_of(2 * n, 60)}\n{text_of(2 * n + 1, 60)}" for n in range(3)]
    shared = text_of(99, 60)
    texts = [
        f"Own title\n\n{bodies[0]}",
        f"Same\n\n{bodies[1]}",
        f"Same\n\n{bodies[2]}\n{shared}",
        f"Nothing of its own\n\n{shared}",
        "too short",
    ]
    pairs = PassagePairs.of(texts, seed=1)
    first, second = bodies[0].split("\n")
    assert pairs.documents == (
        (("Own title", first), ("Own title", second), (first, second)),
        (tuple(bodies[1].split("\n")),),
        (tuple(bodies[2].split("\n")),),  # the shared passage is in no pair
    )
    assert pairs.num_titles == 1


def test_the_pairs_of_a_batch_are_of_different_documents() -> None:
    texts = [f"Title {n}\n\n{text_of(n, 200)}" for n in range(11)]
    pairs = PassagePairs.of(texts, seed=1)
    epochs = []
    for epoch in range(4):
        batches = [pairs.batch(2 * epoch + half, 5) for half in range(2)]
        documents = [
            next(n for n, of in enumerate(pairs.documents) if pair in of)
            for batch in batches
            for pair in batch
        ]
        assert len({*documents}) == 10
        epochs.append(documents)
    assert all(one != other for one, other in pairwise(epochs))
    assert pairs.batch(3, 5) == PassagePairs.of(texts, seed=1).batch(3, 5)
    assert pairs.batch(3, 5) != PassagePairs.of(texts, seed=2).batch(3, 5)
    assert len(pairs.batch(0, 32)) == 11
