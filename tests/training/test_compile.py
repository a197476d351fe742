"""`training.compile`: the same run, by one graph. Traced for real, run by PyTorch as it stands."""

import functools
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from mlmtune.errors import ConfigError
from mlmtune.masking.collator import COUNT_MULTIPLE
from mlmtune.modeling.losses import Losses
from mlmtune.modeling.masked_head import MaskedHead

TRAINING = {"max_steps": 5, "global_batch_size": 8, "micro_batch_size": 4}


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code would take half a minute to make, and is PyTorch's affair."""
    compile_in_place = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", functools.partialmethod(compile_in_place, backend="eager")
    )
    torch._dynamo.reset()
    counters.clear()


def test_a_compiled_run_takes_the_same_steps_with_one_graph(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = set()
    losses = MaskedHead.losses

    def note(head: MaskedHead, model: Any, batch: Any) -> Losses:
        counts.add((len(batch.masked_positions), batch.num_masked_tokens))
        return losses(head, model, batch)

    evaluation = {"every": None, "max_chunks": 4, "batch_size": 4}
    expected = runs.train("expected", training=TRAINING, evaluation=evaluation)
    monkeypatch.setattr(MaskedHead, "losses", note)
    run = runs.train(training={**TRAINING, "compile": True}, evaluation=evaluation)
    assert run.losses == pytest.approx(expected.losses, rel=1e-6)
    assert run.evaluations == pytest.approx(expected.evaluations, rel=1e-6)
    assert len({masked for _, masked in counts}) > 1
    assert {padded for padded, _ in counts} == {min(COUNT_MULTIPLE, 4 * 16)}
    # One for training and one for evaluation, both in one piece.
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_batches_with_padding_are_a_graph_of_their_own(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = set()
    outputs = MaskedHead.outputs

    def note(head: MaskedHead, model: Any, batch: Any) -> Any:
        is_padded = batch.attention_mask is not None
        shapes.add((model.training, tuple(batch.input_ids.shape), is_padded))
        return outputs(head, model, batch)

    evaluation = {"every": None, "batch_size": 4}
    settings = {"max_steps": 2, "global_batch_size": 4}
    expected = runs.train("expected", training=settings, evaluation=evaluation)
    monkeypatch.setattr(MaskedHead, "outputs", note)
    run = runs.train(training={**settings, "compile": True}, evaluation=evaluation)
    assert run.evaluations == pytest.approx(expected.evaluations, rel=1e-6)
    compiled = {shape for shape in shapes if shape[1] != (2, 8)}  # not the probe of the head
    assert any(is_padded for _, _, is_padded in compiled)
    assert counters["stats"]["unique_graphs"] == len(compiled)


def test_the_result_loads_as_one_that_was_not_compiled(runs: Any) -> None:
    run = runs.train(training={**TRAINING, "max_steps": 2, "compile": True})
    expected = runs.train("expected", training={**TRAINING, "max_steps": 2})
    weights = run.weights
    assert weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.allclose(weights[name], weight, rtol=1e-4, atol=1e-6), name


def test_sentences_of_other_lengths_are_not_compiled(runs: Any) -> None:
    examples = ["the [MASK] .", "the storage account of the [MASK] is the cluster ."]
    evaluation = {"every": None, "max_chunks": 4, "batch_size": 4, "examples": examples}
    runs.train(training={**TRAINING, "max_steps": 2, "compile": True}, evaluation=evaluation)
    assert counters["stats"]["unique_graphs"] == 2


def test_sequences_of_many_lengths_are_refused(runs: Any) -> None:
    with pytest.raises(ConfigError, match=r"chunking\.mode: concatenate"):
        runs.train(training={**TRAINING, "compile": True}, chunking={"mode": "per_document"})
