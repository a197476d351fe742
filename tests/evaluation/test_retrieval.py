from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import EvaluationConfig, ModelConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation.bm25 import bm25
from mlmtune.evaluation.retrieval import Retrieval, RetrievalProbe
from mlmtune.evaluation.retrieval_pool import RetrievalPool
from mlmtune.modeling.loading import ModelRequest, load_pretrained
from mlmtune.modeling.sentence_encoder import SentenceEncoder


@pytest.fixture(scope="module")
def loaded(model_dir):
    config = ModelConfig(name_or_path=str(model_dir))
    return load_pretrained(ModelRequest(config, 16, torch.device("cpu"), "fp32", 0), "mlm")


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
def test_the_embeddings_are_those_of_a_padded_batch(view_of, drawn, loaded, pooling):
    """Sentence-transformers pads, and averages over the attention mask, special tokens included."""
    documents = [ids[: 70 + number] for number, ids in enumerate(drawn(25, length=100))]
    encoder = None if pooling is None else SentenceEncoder(pooling, normalizes=False)
    loaded = replace(loaded, sentence_encoder=encoder)
    probe = RetrievalProbe(view_of(documents), loaded, EvaluationConfig())
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


def test_any_number_of_processes_gives_the_same_bits(view_of, drawn, loaded):
    probe = RetrievalProbe(view_of(drawn(60)), loaded, EvaluationConfig())
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


def test_a_request_to_stop_ends_it(view_of, drawn, loaded):
    probe = RetrievalProbe(view_of(drawn(20)), loaded, EvaluationConfig())
    assert probe.run(OneOf(0, 1), loaded.model, lambda: True) is None


class Encoder(torch.nn.Module):
    """Gives states of some tokens, or fails without a number of them."""

    def __init__(self, config, num_tokens):
        super().__init__()
        self.config, self.num_tokens = config, num_tokens
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, token_type_ids):
        if self.num_tokens is None:
            raise TypeError("forward() misses an input")
        return (torch.zeros(1, self.num_tokens, self.config.hidden_size),)


@pytest.mark.parametrize(("num_tokens", "is_own_base"), [(8, True), (4, False), (None, False)])
def test_a_model_without_an_encoder_is_refused_in_one_line(
    view_of, drawn, loaded, num_tokens, is_own_base
):
    config = loaded.model.config
    model, encoder = Encoder(config, num_tokens), Encoder(config, num_tokens)
    # Not as a module of its own, which would be a module of itself.
    object.__setattr__(model, "base_model", model if is_own_base else encoder)
    with pytest.raises(DataError, match="cannot be measured: the encoder of a bert") as error:
        RetrievalProbe(view_of(drawn(20)), replace(loaded, model=model), EvaluationConfig())
    assert "\n" not in str(error.value)


def test_broken_weights_are_refused(view_of, drawn, loaded):
    probe = RetrievalProbe(view_of(drawn(20)), loaded, EvaluationConfig())
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
    bodies = [
        [*filler[:9], word, *filler[9:]] for filler, word in zip(fillers, words, strict=False)
    ]
    del bodies[0][9]  # the word of its title is nowhere
    view = view_of([[word, *b] for word, b in zip(words, bodies, strict=False)], [1] * 20)
    ranked = bm25(RetrievalPool.of(view, EvaluationConfig(), 100, None), tokenizer)
    assert ranked.ranks.tolist() == [20] + [1] * 19
    assert ranked.to_json()["retrieval_anisotropy"] is None
