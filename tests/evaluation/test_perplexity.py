import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from mlmtune.config import ChunkingConfig, EvaluationConfig, MaskingConfig
from mlmtune.errors import DataError, DivergedError
from mlmtune.evaluation import scoring
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import Evaluation, Evaluator, evaluation_of
from mlmtune.evaluation.scoring import FixedMasks, TokenScores
from mlmtune.masking.collator import MaskingCollator
from mlmtune.modeling.masked_head import MaskedHead
from mlmtune.randomness import key
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.special_tokens import SpecialTokens

KNOWN = KnownText(0.0, 0.0, 0.5, 6.0)
"""Text without unknown tokens."""


@pytest.fixture(scope="module")
def accelerator():
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@pytest.fixture(scope="module")
def saved_model(model_dir):
    """Weights large enough that tokens differ in their losses."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(model_dir)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def model(saved_model):
    return copy.deepcopy(saved_model)


@pytest.fixture(scope="module")
def view(make_store, tokenizer):
    """Documents of 1 to 40 tokens, a chunk each: chunks differ in length."""
    return make_view(make_store, tokenizer, num_documents=30)


def make_view(make_store, tokenizer, num_documents, lengths=(1, 41)):
    draw = np.random.default_rng(0)
    documents = [draw.integers(10, len(tokenizer), draw.integers(*lengths)).tolist()
                 for _ in range(num_documents)]  # fmt: skip
    config = ChunkingConfig(chunk_length=48, mode="per_document")
    special = SpecialTokens.of(tokenizer)
    return ChunkView.of(make_store(documents), np.arange(num_documents), config, special, 0)


def make_evaluator(view, tokenizer, **settings):
    """With one draw of masks, unless more are asked for."""
    config = EvaluationConfig(**{"mask_draws": 1, **settings})
    return Evaluator(FixedMasks(view, tokenizer, config, with_token_type_ids=True), config)


@pytest.fixture
def evaluate(accelerator, tokenizer, view):
    def run(model, view=view, **settings):
        evaluator = make_evaluator(view, tokenizer, **settings)
        return evaluator.run(accelerator, model, MaskedHead(model, len(tokenizer)))

    return run


def reference(model, tokenizer, view, mlm_probability=0.15):
    """One chunk at a time through the whole head; the losses and hits of each chunk's tokens."""
    masking = MaskingConfig(mlm_probability=mlm_probability)
    collator = MaskingCollator(tokenizer, masking, with_token_type_ids=True)
    losses, hits = [], []
    for chunk in range(len(view)):
        chunks = np.asarray([chunk])
        keys = key(0, scoring.MASK_STREAM, chunks)
        batch = collator(view.batch(chunks), keys, mlm_probability)
        with torch.no_grad():
            logits = model(**batch.model_inputs()).logits[0].double()
        positions = (batch.labels[0] != -100).nonzero()[:, 0].tolist()
        labels = batch.labels[0, positions].tolist()
        losses.append([-float(logits[p].log_softmax(-1)[label]) for p, label in zip(
            positions, labels, strict=True)])  # fmt: skip
        hits += [int(logits[p].argmax()) == label for p, label in zip(
            positions, labels, strict=True)]  # fmt: skip
    return losses, hits


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_it_is_the_mean_over_masked_tokens_of_the_whole_heads_losses(
    model, tokenizer, view, evaluate, rate
):
    found = evaluate(model, mlm_probability=rate)
    losses, hits = reference(model, tokenizer, view, rate)
    loss = np.mean(np.concatenate(losses))
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    assert found.accuracy == np.mean(hits)
    assert found.num_masked_tokens == len(hits)
    assert found.num_chunks == len(view)
    # A chunk counts by how far its sum is from what its number of tokens lets expect.
    residuals = np.asarray([sum(of_chunk) - loss * len(of_chunk) for of_chunk in losses])
    deviation = math.sqrt(len(view)) * residuals.std(ddof=1) / len(hits)
    expected = [math.exp(loss - 1.96 * deviation), math.exp(loss + 1.96 * deviation)]
    assert found.perplexity_interval == pytest.approx(expected, rel=1e-4)


def scores_of(model, tokenizer, view, draws, **settings):
    """What a model says in some draws, one chunk after the other."""
    config = EvaluationConfig(**settings)
    masks = FixedMasks(view, tokenizer, config, with_token_type_ids=True)
    head = MaskedHead(model, len(tokenizer))
    with torch.inference_mode():
        return TokenScores.join(
            [
                masks.score(model, head, torch.device("cpu"), draw, np.asarray([chunk]))
                for draw in range(draws)
                for chunk in masks.chunks
            ]
        )


@pytest.mark.parametrize(("rate", "mask_draws"), [(0.15, 8), (0.5, 3)])
def test_draws_are_one_sum_that_is_divided_once(model, tokenizer, view, evaluate, rate, mask_draws):
    found = evaluate(model, mlm_probability=rate, mask_draws=mask_draws)
    scores = scores_of(model, tokenizer, view, mask_draws, mlm_probability=rate)
    assert found.num_mask_draws == mask_draws
    assert found.num_predictions == len(scores)
    assert found.loss == pytest.approx(scores.losses.mean(), rel=1e-6)
    assert found.accuracy == scores.is_first.mean()
    # A token that two draws asked for is one token of text.
    distinct = np.unique(np.stack([scores.chunks, scores.columns]), axis=1).shape[1]
    assert found.num_masked_tokens == distinct < len(scores)
    # Chunks are the units of the interval, each with all that was asked in it.
    residuals = np.bincount(scores.chunks, weights=scores.losses - scores.losses.mean())
    half_width = 1.96 * math.sqrt(len(view)) * residuals.std(ddof=1) / len(scores)
    bounds = [math.exp(scores.losses.mean() + sign * half_width) for sign in (-1, 1)]
    assert found.perplexity_interval == pytest.approx(bounds, rel=1e-4)


def test_more_draws_do_not_stand_for_more_text(model, evaluate, view):
    """Eight draws with the same masks would be no evidence: at a rate of 1 there is but one."""
    once, often = (evaluate(model, mlm_probability=1.0, mask_draws=draws) for draws in (1, 8))
    assert often.num_predictions == 8 * once.num_predictions
    assert often.num_masked_tokens == once.num_masked_tokens == view.num_body_tokens
    # Other random replacements change the losses a little; the interval does not shrink by them.
    width_once, width_often = (
        math.log(found.perplexity_interval[1] / found.perplexity_interval[0])
        for found in (once, often)
    )
    assert width_often > 0.8 * width_once


def test_the_first_draw_is_that_of_a_single_one(model, tokenizer, view):
    several = scores_of(model, tokenizer, view, 3)
    alone = scores_of(model, tokenizer, view, 1)
    first = several.draws == 0
    assert np.array_equal(several.positions[first], alone.positions)
    assert np.array_equal(several.losses[first], alone.losses)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 8),  # some 600 tokens, so 90 predictions a draw
        ({"mask_draws": 3}, 3),
        ({"mlm_probability": 0.5}, 3),
        ({"max_chunks": 1, "mlm_probability": 0.5}, 8),
    ],
)
def test_as_many_draws_as_make_enough_predictions(monkeypatch, tokenizer, view, settings, expected):
    monkeypatch.setattr(scoring, "ENOUGH_PREDICTIONS", 800)
    monkeypatch.setattr(scoring, "COUNTED_TOGETHER", 7)
    masks = FixedMasks(view, tokenizer, EvaluationConfig(**settings), with_token_type_ids=True)
    assert masks.num_draws == expected


@pytest.mark.parametrize("mask_draws", [1, 7])
def test_it_does_not_depend_on_the_batch_size(model, evaluate, mask_draws):
    one, three, many = (
        evaluate(model, batch_size=size, mask_draws=mask_draws) for size in (1, 3, 32)
    )
    for other in (three, many):
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.perplexity == pytest.approx(one.perplexity, rel=1e-6)
        assert other.perplexity_interval == pytest.approx(one.perplexity_interval, rel=1e-5)
        assert other.accuracy == one.accuracy
        assert other.num_masked_tokens == one.num_masked_tokens


def test_it_is_the_same_twice_whatever_was_drawn_before(model, evaluate):
    torch.manual_seed(1)
    first = evaluate(model)
    torch.manual_seed(2)
    np.random.default_rng(2)
    assert evaluate(model) == first


def test_its_own_seed_draws_the_masks(model, evaluate):
    assert evaluate(model, seed=1) != evaluate(model, seed=2)


def test_dropout_is_off_and_the_models_mode_is_put_back(model, evaluate):
    expected = evaluate(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert evaluate(model.train()) == expected
    assert model.training
    assert all(module.training for module in model.modules())
    evaluate(model.eval())
    assert not model.training


def test_a_model_that_fails_has_its_mode_put_back_too(model, evaluate):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(math.nan)
    with pytest.raises(DivergedError):
        evaluate(model.train())
    assert model.training


def test_evaluating_leaves_no_gradient(model, evaluate):
    evaluate(model.train())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_subset_of_chunks_is_fixed(accelerator, model, tokenizer, view, evaluate):
    def chunks(**settings):
        config = EvaluationConfig(**settings)
        return FixedMasks(view, tokenizer, config, with_token_type_ids=True).chunks.tolist()

    subset = chunks(max_chunks=10)
    assert len(set(subset)) == 10
    assert subset == sorted(subset) != list(range(10))
    assert chunks(max_chunks=10, batch_size=3) == subset
    assert chunks(max_chunks=10, seed=1) != subset
    assert set(chunks(max_chunks=4)) < set(subset)
    assert chunks(max_chunks=30) == chunks(max_chunks=1000) == chunks() == list(range(30))
    assert evaluate(model, max_chunks=10).num_chunks == 10
    # The same chunks, measured apart, have the same masks.
    alone = [evaluate(model, max_chunks=10, batch_size=size).loss for size in (1, 10)]
    assert alone[0] == pytest.approx(alone[1], rel=1e-6)


def test_processes_share_the_chunks_and_measure_the_same(
    accelerator, model, tokenizer, view, monkeypatch
):
    evaluator = make_evaluator(view, tokenizer, mask_draws=2)
    head = MaskedHead(model, len(tokenizer))
    whole = evaluator.run(accelerator, model, head)

    class Share:
        """One of four processes, whose sums are kept to be added here."""

        num_processes, device, sums = 4, torch.device("cpu"), []

        def __init__(self, process_index):
            self.process_index = process_index

        def reduce(self, tensor, reduction):
            assert reduction == "sum"
            if tensor.ndim == 0:  # whether to stop; nobody asks for it
                return tensor
            self.sums.append(tensor)
            return sum(self.sums)

    *_, last = [evaluator.run(Share(index), model, head) for index in range(4)]
    assert last.loss == pytest.approx(whole.loss, rel=1e-6)
    assert last.num_masked_tokens == whole.num_masked_tokens
    assert last.num_chunks == whole.num_chunks
    assert last.perplexity_interval == pytest.approx(whole.perplexity_interval, rel=1e-5)


def test_a_process_gives_up_when_another_is_told_to_stop(model, tokenizer, view):
    class Two:
        """The first of two processes; the second has been told to stop."""

        num_processes, process_index, device = 2, 0, torch.device("cpu")

        def reduce(self, tensor, reduction):
            assert tensor.ndim == 0
            return tensor + 1

    evaluator = make_evaluator(view, tokenizer)
    head = MaskedHead(model, len(tokenizer))
    assert evaluator.run(Two(), model, head, should_stop=lambda: False) is None


def test_it_gives_up_between_batches_when_it_is_told_to(accelerator, model, tokenizer, view):
    evaluator = make_evaluator(view, tokenizer, batch_size=4)
    head, answers = MaskedHead(model, len(tokenizer)), iter([False, True])
    model.train()
    assert evaluator.run(accelerator, model, head, lambda: next(answers)) is None
    assert model.training


def test_an_enormous_loss_is_said_and_written_as_json(model, evaluate):
    with torch.no_grad():
        model.cls.predictions.decoder.weight.mul_(1e5)
    found = evaluate(model)
    assert found.loss > 709
    assert found.perplexity is None
    assert found.perplexity_interval is None
    written = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(written)["perplexity"] is None
    assert "over 1e308" in found.describe()


def test_weights_that_are_no_numbers_are_an_error(model, evaluate):
    with torch.no_grad():
        model.cls.predictions.bias[3] = math.nan
    with pytest.raises(DivergedError, match="loss is nan"):
        evaluate(model)


def test_no_masked_token_is_an_error(model, make_store, tokenizer, evaluate):
    tiny = make_view(make_store, tokenizer, num_documents=2, lengths=(1, 2))
    with pytest.raises(DataError, match=r"no token .* was masked"):
        evaluate(model, view=tiny, mlm_probability=1e-9)
    unknown = ChunkView.of(
        make_store([[tokenizer.unk_token_id] * 50]), np.arange(1), ChunkingConfig(chunk_length=16),
        SpecialTokens.of(tokenizer), 0,
    )  # fmt: skip
    with pytest.raises(DataError, match="does not know its characters"):
        evaluate(model, view=unknown)


def test_the_interval_holds_the_perplexity_and_narrows_with_the_data(
    model, make_store, tokenizer, evaluate
):
    widths = []
    for num_documents in (20, 320):
        view = make_view(make_store, tokenizer, num_documents)
        found = evaluate(model, view=view)
        low, high = found.perplexity_interval
        assert 1 <= low < found.perplexity < high
        widths.append(math.log(high / low))
    # Sixteen times the data, a quarter of the width (on average).
    assert 0.15 < widths[1] / widths[0] < 0.4


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Chunks of unequal lengths whose tokens' losses hang together, as those of a text do."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        masked = draw.integers(1, 20, 60)
        losses = masked * draw.gamma(4.0, 0.5, 60)  # the true mean is 2
        sums = [60, losses.sum(), masked.sum(), 0, 0, (losses * losses).sum(),
                (losses * masked).sum(), (masked * masked).sum(), masked.sum()]  # fmt: skip
        low, high = evaluation_of([float(value) for value in sums], 1, KNOWN).perplexity_interval
        covered += math.log(low) <= 2.0 <= math.log(high)
    assert 0.92 <= covered / 1000 <= 0.97


def test_one_chunk_has_no_interval(model, make_store, tokenizer, evaluate):
    found = evaluate(model, view=make_view(make_store, tokenizer, 1, (30, 31)))
    assert found.perplexity_interval is None
    assert found.num_chunks == 1
    assert "[" not in found.describe()


def test_a_result_is_told_in_one_line():
    found = Evaluation(2.0, math.exp(2.0), (7.0, 7.8), 0.5, 0.7, 12_345, 10, 1, 12_345, 0.0, 0.0)
    line = "perplexity 7.39 [7.00, 7.80], accuracy 50.0% on 12,345 masked tokens"
    assert found.describe() == line
    found = replace(found, num_mask_draws=8, num_predictions=15_000)
    assert found.describe() == f"{line} (8 draws of masks)"
    found = replace(found, num_mask_draws=1, unknown_token_share=0.23)
    assert found.describe() == f"{line}; 23.0% of the tokens are unknown and left out"
