import copy

import pytest
import torch

from mlmtune.errors import ConfigError
from mlmtune.evaluation.fill_mask import TargetWords, fill_mask, predict_masks


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


def test_special_tokens_that_a_user_added_are_shown_as_text(bert, tokenizer):
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"extra_special_tokens": ["[unused1]"]})  # a token of the model
    [[found]] = fill_mask(bert, marked, "delete [unused1] key [MASK] [PAD]", top_k=1)
    assert found.sequence.startswith("delete [unused1] key")
    assert "[PAD]" not in found.sequence


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


def test_a_text_that_is_not_unicode_is_refused(pair):
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        fill_mask(*pair, "\udcff [MASK]")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        TargetWords(["\udcff"], pair[1])


# ------------------------------------------------------------------------------------- targets


def test_a_target_has_its_probability_and_its_rank(pair):
    model, tokenizer = pair
    text = "the [MASK] is [MASK]"
    everything = fill_mask(model, tokenizer, text, top_k=len(tokenizer))
    masks = predict_masks(model, tokenizer, text, 3, TargetWords(["a", "the"], tokenizer))
    assert [list(mask.predictions) for mask in masks] == fill_mask(model, tokenizer, text, 3)
    for mask, candidates in zip(masks, everything, strict=True):
        assert [target.word for target in mask.targets] == ["a", "the"]
        for target in mask.targets:
            if target.token is not None:
                assert target.score == pytest.approx(candidates[target.rank - 1].score)
                assert candidates[target.rank - 1].score == next(
                    c.score for c in candidates if c.token == target.token
                )
    assert masks[0].targets[0].token is not None


def found(tokenizer, word, before):
    [target] = TargetWords([word], tokenizer).at(before)
    return target


@pytest.mark.parametrize(
    ("word", "before", "token"),
    [("storage", "the ", "storage"), ("Storage", "", "storage"), ("storage", "(", "storage"),
     ("##s", "key", "##s"), ("[SEP]", "the ", "[SEP]"),
     (".", "the ", ".")],
)  # fmt: skip
def test_a_target_of_wordpiece(tokenizer, word, before, token):
    target = found(tokenizer, word, before)
    assert target.token == tokenizer.convert_tokens_to_ids(token)
    assert target.token_str == token


def test_a_target_of_byte_level_bpe_is_taken_with_its_space(byte_tokenizer):
    vocabulary = byte_tokenizer.get_vocab()
    both = [
        w[1:] for w in vocabulary if w[:1] == "\u0120" and w[1:].isalpha() and w[1:] in vocabulary
    ]
    assert both
    for word in both:
        assert found(byte_tokenizer, word, "the ").token == vocabulary[f"\u0120{word}"]
        assert found(byte_tokenizer, word, "the\n").token == vocabulary[f"\u0120{word}"]
        assert found(byte_tokenizer, word, "").token == vocabulary[word]
        assert found(byte_tokenizer, word, "(").token == vocabulary[word]
        assert found(byte_tokenizer, f"\u0120{word}", "(").token == vocabulary[f"\u0120{word}"]


def test_a_target_of_byte_level_bpe_that_stands_within_words_alone(byte_tokenizer):
    target = found(byte_tokenizer, "orage", "the ")
    assert target.token_str == "orage"
    assert len(target.pieces) > 1


def test_a_target_of_unigram_is_taken_with_its_space(unigram_tokenizer):
    vocabulary = unigram_tokenizer.get_vocab()
    assert found(unigram_tokenizer, "storage", "the ").token == vocabulary["\u2581storage"]
    assert found(unigram_tokenizer, "Storage", "").token == vocabulary["\u2581storage"]
    assert found(unigram_tokenizer, "a", "the ").token == vocabulary["\u2581a"]
    assert found(unigram_tokenizer, "a", "the").token == vocabulary["a"]
    assert found(unigram_tokenizer, "ing", "delet").token == vocabulary["ing"]


@pytest.mark.parametrize(
    ("fixture", "word", "pieces"),
    [("tokenizer", "k8s", ("k", "##8", "##s")), ("tokenizer", "\u4e00", ("[UNK]",)),
     ("tokenizer", "[UNK]", ("[", "u", "##n", "##k", "]")),
     ("tokenizer", "storage account", ("storage", "account")), ("tokenizer", "\x00", ()),
     ("byte_tokenizer", "k8s", ("\u0120", "k", "8", "s")),
     ("unigram_tokenizer", "k8s", ("\u2581", "k", "8", "s")),
     ("unigram_tokenizer", "\u4e00", ("\u2581", "\u4e00"))],
)  # fmt: skip
def test_a_target_that_is_not_one_token(request, fixture, word, pieces):
    target = found(request.getfixturevalue(fixture), word, "the ")
    assert (target.token, target.token_str, target.score, target.rank) == (None,) * 4
    assert target.pieces == pieces


@pytest.mark.parametrize(
    ("text", "is_spaced"),
    [("the <mask> key", [True]), ("<mask> key", [False]), ("(<mask>)", [False]),
     ("the [MASK] <mask><mask>", [True, True, False]), ("  <mask>", [True])],
)  # fmt: skip
@pytest.mark.parametrize("takes_space", [True, False])
def test_whether_a_mask_stands_after_a_space(roberta, byte_tokenizer, text, is_spaced, takes_space):
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(byte_tokenizer)
    if takes_space:  # as RoBERTa's mask token does
        tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    masks = predict_masks(roberta, tokenizer, text, 1, TargetWords(["s"], tokenizer))
    tokens = [mask.targets[0].token_str for mask in masks]
    assert tokens == ["\u0120s" if spaced else "s" for spaced in is_spaced]
