from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import ChunkingConfig, ModelConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation import retrieval
from mlmtune.evaluation.bm25 import bm25
from mlmtune.evaluation.retrieval import Retrieval, RetrievalPool, RetrievalProbe
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.modeling.sentence_encoder import SentenceEncoder
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens


@pytest.fixture(scope="module")
def loaded(model_dir):
    config = ModelConfig(name_or_path=str(model_dir))
    return load_pretrained(ModelRequest(config, 16, torch.device("cpu"), "fp32", 0), "mlm")


@pytest.fixture
def view_of(make_store, tokenizer):
    """A view of all documents, which are lists of ids and may have a title."""

    def view(documents, titles=None):
        store = make_store(documents)
        lengths = np.asarray(titles or [0] * len(documents), dtype=np.int64)
        store = replace(store, documents=replace(store.documents, title_lengths=lengths))
        config, special = ChunkingConfig(chunk_length=16), SpecialTokens.of(tokenizer)
        return ChunkView.of(store, np.arange(len(documents)), config, special, 0)

    return view


def drawn(num_documents, length=80, seed=0):
    """Documents of random ids, which have no five tokens in common."""
    draw = np.random.default_rng(seed)
    return draw.integers(5, 60, (num_documents, length)).tolist()


def test_the_query_is_the_title_and_the_target_what_follows(view_of):
    documents = drawn(21)
    title, (first, second) = [7, 8, 9], documents[:2]
    documents[0] = [*title, *first]
    documents[1] = [*title, 5, *title, *second]  # a token of the line in between, and the title
    pool = RetrievalPool.of(view_of(documents, [3, 3] + [0] * 19), 0, max_tokens=50)
    assert [ids.tolist() for ids in pool.queries[:2]] == [title, title]
    assert [ids.tolist() for ids in pool.targets[:2]] == [first[:50], second[:50]]
    assert pool.num_titles == 2


def test_without_a_title_one_half_is_the_query_and_the_other_the_target(view_of):
    documents = drawn(21)
    pool = RetrievalPool.of(view_of(documents), 0, max_tokens=30)
    assert [ids.tolist() for ids in pool.queries] == [ids[:30] for ids in documents]
    assert [ids.tolist() for ids in pool.targets] == [ids[40:70] for ids in documents]


def test_the_pool_is_bounded_and_drawn_by_the_seed(view_of, monkeypatch):
    monkeypatch.setattr(retrieval, "MOST_DOCUMENTS", 25)
    view = view_of(drawn(60) + drawn(5, length=20))  # the last five are too short
    pools = [RetrievalPool.of(view, seed, 50).documents for seed in (0, 0, 1)]
    assert len(pools[0]) == 25
    assert pools[0].max() < 60
    assert np.array_equal(pools[0], pools[1])
    assert not np.array_equal(pools[0], pools[2])


@pytest.mark.parametrize(("long", "short"), [(19, 0), (19, 30), (1, 0), (0, 1)])
def test_too_few_documents_are_refused_in_one_line(view_of, long, short):
    view = view_of(drawn(long) + drawn(short, length=10))
    with pytest.raises(DataError, match=f"takes 20 .* has {long}; .* raise corpus") as error:
        RetrievalPool.of(view, 0, 50)
    assert "\n" not in str(error.value)


def test_a_target_that_nearly_equals_the_right_one_is_no_error(view_of):
    documents = drawn(24)
    documents[1] = [*documents[1][:40], *documents[0][40:75], 5, 6, 7, 8, 9]
    titles = [0] * 22 + [3, 3]
    documents[23][:3] = documents[22][:3]
    pool = RetrievalPool.of(view_of(documents, titles), 0, max_tokens=50)
    expected = {(0, 1), (1, 0), (22, 23), (23, 22)}  # near-duplicates, and equal titles
    assert {*zip(*map(list, np.nonzero(pool.set_aside)), strict=True)} == expected
    scores = np.eye(24)
    scores[0, 1] = scores[22, 23] = 2.0
    assert (pool.ranks(scores) == 1).all()
    scores[0, 2] = 2.0
    assert pool.ranks(scores)[0] == 2


def test_a_model_that_tells_nothing_apart_finds_nothing(view_of):
    pool = RetrievalPool.of(view_of(drawn(20)), 0, 50)
    assert (pool.ranks(np.ones((20, 20))) == 20).all()


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_the_measures_are_those_of_one_relevant_document(ranks):
    means = Retrieval(np.asarray(ranks), 0.5, 0).means()
    expected = {
        "recall_at_1": [rank == 1 for rank in ranks],
        "recall_at_10": [rank <= 10 for rank in ranks],
        "mrr": [1 / rank for rank in ranks],
        "ndcg_at_10": [1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in ranks],
    }
    assert means == pytest.approx({name: np.mean(v) for name, v in expected.items()})


@pytest.mark.parametrize("pooling", [None, {}, {"pooling_mode_cls_token": True}])
def test_the_embeddings_are_those_of_a_padded_batch(view_of, loaded, pooling):
    """Sentence-transformers pads, and averages over the attention mask, special tokens included."""
    documents = [ids[: 70 + number] for number, ids in enumerate(drawn(25, length=100))]
    encoder = None if pooling is None else SentenceEncoder(pooling, normalizes=False)
    probe = RetrievalProbe(view_of(documents), replace(loaded, sentence_encoder=encoder), 0)
    cls, sep = loaded.tokenizer.cls_token_id, loaded.tokenizer.sep_token_id
    texts = [*probe.pool.queries, *probe.pool.targets]
    rows = [{"input_ids": [cls, *ids.tolist(), sep]} for ids in texts]
    batch = loaded.tokenizer.pad(rows, return_tensors="pt")
    with torch.no_grad():
        states = loaded.model.eval().base_model(**batch)[0]
    mask = batch["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = states[:, 0] if pooling else mean
    embeddings = probe.embeddings(loaded.model, torch.device("cpu"))
    torch.testing.assert_close(embeddings, expected, rtol=0.0, atol=1e-5)
    unit = torch.nn.functional.normalize(expected[25:], dim=1).numpy()
    cosines = (unit @ unit.T)[~np.eye(25, dtype=bool)]
    measured = probe.measure(loaded.model, torch.device("cpu"))
    assert measured.anisotropy == pytest.approx(cosines.mean(), abs=1e-5)


class OneOf:
    """An accelerator of one of several processes, whose sums are those of all of them."""

    def __init__(self, process_index, num_processes, others=()):
        self.process_index, self.num_processes = process_index, num_processes
        self.is_main_process = process_index == 0
        self.device = torch.device("cpu")
        self.autocast = Accelerator().autocast
        self.given, self._others = [], others

    def reduce(self, tensor, reduction):
        if tensor.ndim:  # not the number of those that want to stop
            self.given.append(tensor.clone())
            for other in self._others:
                tensor = tensor + other.given[len(self.given) - 1]
        return tensor


def test_any_number_of_processes_gives_the_same_bits(view_of, loaded):
    probe = RetrievalProbe(view_of(drawn(60)), loaded, 0)
    alone = probe.run(OneOf(0, 1), loaded.model)
    second = OneOf(1, 3)
    third = OneOf(2, 3)
    for helper in (second, third):
        probe.run(helper, loaded.model)
        helper.given[1] = torch.zeros_like(helper.given[1])  # what is not the main process's
    shared = probe.run(OneOf(0, 3, [second, third]), loaded.model)
    assert np.array_equal(shared.ranks, alone.ranks)
    assert shared.anisotropy == alone.anisotropy
    here = probe.measure(loaded.model, torch.device("cpu"))
    assert here.to_json() == alone.to_json()


def test_a_request_to_stop_ends_it(view_of, loaded):
    probe = RetrievalProbe(view_of(drawn(20)), loaded, 0)
    assert probe.run(OneOf(0, 1), loaded.model, lambda: True) is None


def test_broken_weights_are_refused(view_of, loaded):
    probe = RetrievalProbe(view_of(drawn(20)), loaded, 0)
    bias = next(p for name, p in loaded.model.named_parameters() if name.endswith("LayerNorm.bias"))
    kept = bias.detach().clone()
    try:
        bias.data[0] = float("nan")
        with pytest.raises(DivergedError, match="not finite"):
            probe.measure(loaded.model, torch.device("cpu"))
    finally:
        bias.data = kept


def test_bm25_finds_the_target_that_has_the_words_of_the_title(view_of, tokenizer):
    words = [id_ for word, id_ in tokenizer.get_vocab().items() if word.isalpha()]
    fillers = np.random.default_rng(0).choice(words[20:], (20, 69)).tolist()
    bodies = [[*filler, word] for filler, word in zip(fillers, words, strict=False)]
    del bodies[0][-1]  # the word of its title is nowhere
    view = view_of([[word, *b] for word, b in zip(words, bodies, strict=False)], [1] * 20)
    ranked = bm25(RetrievalPool.of(view, 0, 100), tokenizer)
    assert ranked.ranks.tolist() == [20] + [1] * 19
    assert ranked.to_json()["retrieval_anisotropy"] is None
