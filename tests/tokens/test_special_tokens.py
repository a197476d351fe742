import copy

from mlmtune.tokens.special_tokens import SpecialTokens


def with_template(tokenizer, **template):
    from tokenizers import processors

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(**template)
    return tokenizer


def test_the_frame_of_a_bert(tokenizer):
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert SpecialTokens.of(tokenizer) == SpecialTokens((cls_id,), (sep_id,), (sep_id,))


def test_the_frame_of_a_roberta(byte_tokenizer):
    assert SpecialTokens.of(byte_tokenizer) == SpecialTokens((0,), (2,), (2,))


def test_the_frame_follows_the_template_and_not_the_names(tokenizer):
    """T5's kind ends a sequence and does not begin one."""
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    ending = with_template(tokenizer, single="$A [SEP]", special_tokens=[("[SEP]", sep_id)])
    assert SpecialTokens.of(ending) == SpecialTokens((), (sep_id,), (sep_id,))
    doubled = with_template(
        tokenizer, single="[CLS] [CLS] $A [SEP]",
        special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
    )  # fmt: skip
    assert SpecialTokens.of(doubled).prefix == (cls_id, cls_id)


def test_without_a_template_the_frame_is_cls_and_sep(word_tokenizer):
    assert SpecialTokens.of(word_tokenizer) == SpecialTokens((1,), (2,), (2,))


def test_without_a_template_and_without_names_there_is_no_frame(word_tokenizer):
    tokenizer = word_tokenizer
    tokenizer.cls_token = tokenizer.sep_token = None
    assert SpecialTokens.of(tokenizer) == SpecialTokens((), (), ())
    tokenizer.eos_token = "b"
    assert SpecialTokens.of(tokenizer) == SpecialTokens((), (6,), (6,))


def test_the_frame_is_whole_under_a_tokenizer_that_truncates_and_pads(tokenizer):
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(2)
    cutting.backend_tokenizer.enable_padding(length=8)
    assert SpecialTokens.of(cutting) == SpecialTokens.of(tokenizer)
