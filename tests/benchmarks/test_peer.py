from dataclasses import replace

import ours
import peer
import pytest
import texts
import torch
from accelerate.state import AcceleratorState, GradientState
from torch.nn import functional
from transformers import AutoTokenizer, DataCollatorForLanguageModeling


@pytest.fixture(autouse=True)
def accelerate_as_it_was():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def chunks(setting):
    documents = peer.load_documents(setting.train, setting.workspace / "peer")
    return peer.to_chunks(documents, AutoTokenizer.from_pretrained(setting.model), setting.length)


def test_group_texts_keeps_the_tokens_but_for_the_rest():
    examples = {
        "input_ids": [[1, 2, 3], [], [4, 5], [6, 7]],
        "mask": [[0, 1, 0], [], [0, 0], [1, 1]],
    }
    grouped = peer.group_texts(examples, 3)
    assert grouped == {"input_ids": [[1, 2, 3], [4, 5, 6]], "mask": [[0, 1, 0], [0, 0, 1]]}
    assert peer.group_texts({"input_ids": [[1, 2]]}, 3) == {"input_ids": []}


def test_chunks_hold_each_document_between_its_special_tokens(setting, chunks):
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    documents = texts.read(setting.train)
    stream = [id_ for ids in tokenizer(documents)["input_ids"] for id_ in ids]
    joined = [id_ for ids in chunks["input_ids"] for id_ in ids]
    assert joined == stream[: len(joined)]
    assert len(stream) - len(joined) < setting.length
    assert sum(map(sum, chunks["special_tokens_mask"])) == pytest.approx(2 * len(documents), abs=2)


def test_its_loss_is_that_of_the_full_head(setting, chunks):
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    torch.manual_seed(0)
    batch = DataCollatorForLanguageModeling(tokenizer)([chunks[n] for n in range(4)])
    output = peer.load_model(setting)(**batch)
    plain = functional.cross_entropy(
        output.logits.reshape(-1, output.logits.shape[-1]), batch["labels"].reshape(-1)
    )
    assert output.loss.item() == pytest.approx(plain.item(), rel=1e-6)


def test_both_sides_have_the_same_loss_on_the_same_batch(setting):
    side = ours.Training(setting)
    batch = side.task.stream.micro_batches(0)[0]
    by_peer = peer.load_model(setting)(input_ids=batch.input_ids, labels=batch.labels).loss
    assert side.step() == pytest.approx(by_peer.item(), rel=1e-5)


def test_biases_and_norms_do_not_decay(setting):
    model = peer.load_model(setting)
    decays, stays = peer.parameter_groups(model, 0.01)
    assert (decays["weight_decay"], stays["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.ndim == 2 for parameter in decays["params"])
    assert all(parameter.ndim == 1 for parameter in stays["params"])
    assert len(decays["params"]) + len(stays["params"]) == len(list(model.parameters()))


def test_both_sides_take_steps_over_as_many_tokens(setting):
    for side in (peer.Training(setting), ours.Training(setting)):
        assert side.facts()["loss"] is None
        block = side.run(2)
        assert (block.num_steps, block.amount) == (2, 2 * setting.batch_size * setting.length)
        assert block.seconds > 0
        assert side.facts()["peak_memory_bytes"] > 0


def test_both_sides_evaluate(setting):
    sides = peer.Evaluation(setting), ours.Evaluation(setting)
    for side in sides:
        assert side.run(1).amount > 0
    by_peer, by_us = (side.facts()["perplexity"] for side in sides)
    assert by_us == pytest.approx(by_peer, rel=0.2)  # other masks, the same untrained model


def test_dropout_is_set_where_a_setting_has_one(setting):
    model = peer.load_model(replace(setting, dropout=0.3))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
