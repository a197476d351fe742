import copy

import pytest
import torch

from mlmtune.errors import ConfigError
from mlmtune.evaluation.fill_mask import fill_mask


def large_weights(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def bert(model_dir):
    from transformers import AutoModelForMaskedLM

    return large_weights(AutoModelForMaskedLM.from_pretrained(model_dir))


@pytest.fixture(scope="module")
def roberta(byte_tokenizer):
    from transformers import RobertaConfig, RobertaForMaskedLM

    return large_weights(RobertaForMaskedLM(RobertaConfig(
        vocab_size=len(byte_tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=66, pad_token_id=1,
    )))  # fmt: skip


@pytest.fixture(params=["bert", "roberta"])
def pair(request, tokenizer, byte_tokenizer):
    model = request.getfixturevalue(request.param)
    return model, tokenizer if request.param == "bert" else byte_tokenizer


@pytest.mark.parametrize(
    "text", ["the storage [MASK] is running.", "[MASK] cluster", "delete the key [MASK]"]
)
def test_one_mask_is_filled_as_by_the_pipeline(pair, text):
    from transformers import pipeline

    model, tokenizer = pair
    pipe = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=7, device="cpu")
    expected = pipe(text.replace("[MASK]", tokenizer.mask_token))
    [found] = fill_mask(model, tokenizer, text, top_k=7)
    assert len(found) == 7
    for prediction, row in zip(found, expected, strict=True):
        assert prediction.token == row["token"]
        assert prediction.score == pytest.approx(row["score"], rel=1e-5)
        assert prediction.token_str == row["token_str"].strip()
        assert prediction.sequence == row["sequence"]


def test_each_of_several_masks_has_its_predictions_and_leaves_the_others(pair):
    from transformers import pipeline

    model, tokenizer = pair
    mask = tokenizer.mask_token
    text = f"the {mask} is {mask} in azure"
    found = fill_mask(model, tokenizer, text, top_k=3)
    pipe = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=3, device="cpu")
    assert [[p.token for p in of_mask] for of_mask in found] == [
        [row["token"] for row in of_mask] for of_mask in pipe(text)
    ]
    assert len(found) == 2
    for of_mask in found:
        for prediction in of_mask:
            assert prediction.sequence.count(mask) == 1
            for special in {tokenizer.cls_token, tokenizer.sep_token}:
                assert special not in prediction.sequence


def test_mask_may_be_written_for_any_tokenizer(roberta, byte_tokenizer):
    own = fill_mask(roberta, byte_tokenizer, "the <mask> account")
    assert fill_mask(roberta, byte_tokenizer, "the [MASK] account") == own


def test_the_scores_are_probabilities_in_order(pair):
    model, tokenizer = pair
    [found] = fill_mask(model, tokenizer, "the [MASK]", top_k=len(tokenizer))
    scores = [prediction.score for prediction in found]
    assert sum(scores) == pytest.approx(1.0, abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert {prediction.token for prediction in found} == set(range(len(tokenizer)))


def test_the_models_mode_is_put_back(pair):
    model, tokenizer = pair
    expected = fill_mask(model, tokenizer, "the [MASK]")
    assert not model.training
    model = copy.deepcopy(model).train()
    assert fill_mask(model, tokenizer, "the [MASK]") == expected
    assert model.training


def test_a_tokenizer_that_truncates_and_pads_changes_nothing(bert, tokenizer):
    text = "the storage account in the resource group is running and the last [MASK] is ready"
    expected = fill_mask(bert, tokenizer, text)
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(8)
    cutting.backend_tokenizer.enable_padding(length=50)
    assert fill_mask(bert, cutting, text) == expected


def test_a_text_without_a_mask_is_refused(pair):
    with pytest.raises(ConfigError, match=r"no \[MASK\] in 'the account'"):
        fill_mask(*pair, "the account")


def test_a_text_longer_than_the_model_takes_is_refused(pair):
    model, tokenizer = pair
    fits = "a " * 30 + "[MASK]"
    assert len(fill_mask(model, tokenizer, fits)) == 1
    with pytest.raises(ConfigError, match=r"has \d+ tokens, .* takes 64; shorten"):
        fill_mask(model, tokenizer, "a " * 70 + "[MASK]")
