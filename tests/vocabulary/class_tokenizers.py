"""Tokenizers of transformers' own classes, trained on a little general text."""

import json
import random
from functools import cache

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AlbertTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)
from vocabulary import VOCABULARY, WORDS

LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;-()'üß我们使用集群和网络"
)


@cache
def general_text():
    draw = random.Random(0)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    sentences = [" ".join(draw.choices(WORDS, weights, k=9)) + "." for _ in range(400)]
    return [*sentences, *(" ".join(LETTERS) for _ in range(5)), LETTERS, "我们使用网络，使用存储。"]


def bert(**settings):
    pieces = [*VOCABULARY, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: id_ for id_, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocabulary, **settings)


def trained_bpe(special):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(general_text(), trainer)
    return backend


def roberta():
    special = ["<s>", "<pad>", "</s>", "<unk>", "madeupword0000", "madeupword0001"]
    model = json.loads(trained_bpe(special).to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    mask = AddedToken("<mask>", lstrip=True, special=True)
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, mask_token=mask)


def modern_bert(backend=None):
    """All special tokens and the unused ones are added tokens behind the vocabulary."""
    backend = backend or trained_bpe([])
    backend.normalizer = normalizers.NFC()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    backend.add_special_tokens([*special, AddedToken("[MASK]", lstrip=True)])
    backend.add_tokens([AddedToken(f"[unused{number}]") for number in range(4)])
    backend.add_tokens([AddedToken("    ")])
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]",
    )  # fmt: skip


def trained_pieces(special, unknown):
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token=unknown, show_progress=False
    )
    backend.train_from_iterator(general_text(), trainer)
    return [tuple(piece) for piece in json.loads(backend.to_str())["model"]["vocab"]]


def albert():
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    return AlbertTokenizer(vocab=trained_pieces(special, "<unk>"))


def xlm_roberta():
    return XLMRobertaTokenizer(vocab=trained_pieces(["<s>", "<pad>", "</s>", "<unk>"], "<unk>"))


def deberta():
    """Its [MASK] is an added token behind the pieces, as in microsoft/deberta-v3-base."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    return DebertaV2Tokenizer(vocab=trained_pieces(special, "[UNK]"), unk_id=3)


MAKERS = {
    "BERT": bert,
    "BERT, cased": lambda: bert(do_lower_case=False),
    "RoBERTa": roberta,
    "ModernBERT": modern_bert,
    "ALBERT": albert,
    "XLM-R": xlm_roberta,
    "DeBERTa": deberta,
}
MODEL_TYPES = {
    "BERT": "distilbert",
    "BERT, cased": "bert",
    "RoBERTa": "roberta",
    "ModernBERT": "modernbert",
    "ALBERT": "albert",
    "XLM-R": "xlm-roberta",
    "DeBERTa": "deberta-v2",
}


@cache
def tokenizer_of(family):
    return MAKERS[family]()
