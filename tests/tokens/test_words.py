"""Words in every kind of tokenizer and script: what is masked together."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

from mlmtune.config import CorpusConfig, SourceConfig, TokenizationConfig
from mlmtune.console import Console
from mlmtune.corpus.document import Document
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError
from mlmtune.tokens import words as words_module
from mlmtune.tokens.borders import Offsets
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.tokens.splits import TextNeeds, needed_markers
from mlmtune.tokens.words import SEGMENTERS, check_words, segmented, word_marker, word_starts

ENGLISH = "The scale-set, in storageaccounts (and pools)."
CHINESE = "员工的人力资源数据很重要，请打开AI模型的下一行。"
# As rjieba cuts it.
CHINESE_WORDS = ["员工", "的", "人力资源", "数据", "很", "重要", "，", "请", "打开", "AI", "模型",
                 "的", "下", "一行", "。"]  # fmt: skip
MIXED = f"{ENGLISH} {CHINESE}"

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wrapped(backend, special):
    names = ("pad", "unk", "cls", "sep", "mask")
    order = special if special is BERT_SPECIAL else [special[i] for i in (1, 3, 0, 2, 4)]
    tokens = {f"{name}_token": token for name, token in zip(names, order, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


def bert(lowercase):
    """WordPiece with BERT's normalizer, which sets each Chinese character apart."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
    from tokenizers.models import WordPiece

    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=BERT_SPECIAL, show_progress=False
    )
    backend.train_from_iterator([MIXED] * 5, trainer)
    return wrapped(backend, BERT_SPECIAL)


def roberta():
    """Byte-level BPE, whose own words are all that stands between spaces and punctuation."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from tokenizers.models import BPE

    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=ROBERTA_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([ENGLISH] * 5, trainer)
    return wrapped(backend, ROBERTA_SPECIAL)


def albert():
    """SentencePiece's Unigram, whose own words are all that stands between spaces."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import Unigram

    pieces = [
        "▁The",
        "▁scale",
        "▁in",
        "▁storage",
        "account",
        "▁",
        "and",
        "pool",
        "s",
        "set",
        "的人",
    ]
    pieces += ["的人", *sorted(set(MIXED + "abcdefghijklmnopqrstuvwxyz") - {" "})]
    vocabulary = [(token, 0.0) for token in BERT_SPECIAL]
    vocabulary += [(piece, -1.0 - (len(piece) == 1)) for piece in dict.fromkeys(pieces)]
    backend = Tokenizer(Unigram(vocabulary, 1, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return wrapped(backend, BERT_SPECIAL)


FAMILIES = {
    "BERT, uncased": lambda: bert(True),
    "BERT, cased": lambda: bert(False),
    "RoBERTa": roberta,
    "ALBERT": albert,
}
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def words_in(tokenizer, text, segmenter=None):
    """The text of each word, as it would be masked."""
    encode = Encoder(plain_backend(tokenizer))
    ids, starts, _ = encode([text])
    offsets = encode.offsets([text])[0]
    assert len(offsets.starts) == len(ids)
    if segmenter is not None:
        starts = word_marker(segmenter).mark(Document(text, "", 0, 0), iter([offsets]), starts)
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(ids)) - 1
    places = zip(offsets.starts[first], offsets.ends[last], strict=True)
    return [text[begin:end].strip() for begin, end in places]


# ----------------------------------------------------------------- languages that set spaces


@EACH_FAMILY
def test_english_words_are_parted_at_spaces_and_punctuation(family):
    words = [word for word in words_in(FAMILIES[family](), ENGLISH) if word]
    assert words[:10] == [
        "The",
        "scale",
        "-",
        "set",
        ",",
        "in",
        "storageaccounts",
        "(",
        "and",
        "pools",
    ]
    assert "".join(words[10:]) == ")."  # one token for RoBERTa, two for the others


@EACH_FAMILY
def test_a_segmenter_leaves_english_as_it_is(family):
    tokenizer = FAMILIES[family]()
    assert words_in(tokenizer, ENGLISH, "rjieba") == words_in(tokenizer, ENGLISH)


# --------------------------------------------------------------- languages that set no spaces


@EACH_FAMILY
def test_chinese_words_are_those_of_the_segmenter(family):
    words = [word for word in words_in(FAMILIES[family](), CHINESE, "rjieba") if word]
    expected = list(CHINESE_WORDS)
    if family == "ALBERT":  # its piece reaches over a border, which makes the two words one
        expected[1:3] = ["的人力资源"]
    assert words == expected


@EACH_FAMILY
def test_both_scripts_in_one_text_are_both_right(family):
    tokenizer = FAMILIES[family]()
    words = [word for word in words_in(tokenizer, MIXED, "rjieba") if word]
    english = [word for word in words_in(tokenizer, ENGLISH) if word]
    chinese = [word for word in words_in(tokenizer, CHINESE, "rjieba") if word]
    assert words == english + chinese


def test_without_a_segmenter_a_word_is_a_character_or_a_clause():
    assert words_in(bert(True), "人力资源数据") == list("人力资源数据")
    assert words_in(roberta(), "人力资源数据") == ["人力资源数据"]
    assert words_in(albert(), "人力资源数据") == ["人力资源数据"]


@pytest.mark.parametrize(
    ("make", "text"), [(lambda: bert(True), "人力资源数据很重要"), (roberta, ENGLISH)]
)
def test_lines_that_the_stock_collator_takes_for_one_word_have_several(make, text):
    """transformers 5.23 finds words by gaps between offsets: it masks all of these or nothing."""
    tokenizer = make()
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    row = {name: encoding[name] for name in ("input_ids", "attention_mask", "offset_mapping")}
    collate = DataCollatorForLanguageModeling(
        tokenizer, whole_word_mask=True, mlm_probability=0.5, mask_replace_prob=1.0,
        random_replace_prob=0.0, seed=0,
    )  # fmt: skip
    is_masked = (collate([row] * 50)["labels"] != -100).numpy()
    assert {tuple(sorted(set(mask.tolist()))) for mask in is_masked} == {(False,), (True,)}
    assert len(words_in(tokenizer, text, "rjieba")) >= 4


# -------------------------------------------------------------------------- the rule by itself


UNSPACED = "员工的人力资源がカ"


def halves(offsets):
    """The offsets of a text in two pieces."""
    middle = len(offsets.starts) // 2
    return [
        Offsets(offsets.starts[part], offsets.ends[part])
        for part in (slice(middle), slice(middle, None))
    ]


def by_twos(run):
    return [run[i : i + 2] for i in range(0, len(run), 2)]


@given(text=st.text(alphabet=f"ab .,-{UNSPACED}", max_size=30))
def test_the_laws_of_word_starts(text):
    encode = Encoder(plain_backend(by_bytes))
    _, own, _ = encode([text])
    offsets = encode.offsets([text])[0]
    starts = word_starts(text, halves(offsets), own, by_twos)
    assert len(starts) == len(own)
    if len(starts):
        assert starts[0]
    # No character is cut: the later bytes of one go on with it.
    same = offsets.starts[1:] < offsets.ends[:-1]
    unspaced = np.asarray(
        [text[s : s + 1] in "员工的人力资源がカ" for s in offsets.starts[1:]], bool
    )
    assert not starts[1:][same & unspaced].any()
    # Far from such characters nothing changes.
    near = [
        any(c in "员工的人力资源がカ" for c in text[max(s - 1, 0) : s + 1]) for s in offsets.starts
    ]
    far = ~np.asarray(near, dtype=bool)
    far[:1] = False
    assert np.array_equal(starts[far], own[far])


by_bytes = roberta()


@given(text=st.text(alphabet=f"ab .,-{UNSPACED}", max_size=30), most=st.integers(1, 5))
def test_a_segmenter_cuts_runs_without_spaces_and_nothing_else(text, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "MOST_CHARACTERS_PER_CUT", most)
        places = list(segmented(text, by_twos))
    assert "".join(text[a:b] for a, b in places) == "".join(c for c in text if c in UNSPACED)
    assert all(0 < b - a <= 2 for a, b in places)


def test_a_segmenter_that_knows_no_word_gives_characters():
    encode = Encoder(plain_backend(by_bytes))
    _, own, _ = encode(["员工"])
    offsets = encode.offsets(["员工"])[0]
    assert word_starts("员工", halves(offsets), own, list).sum() == 2
    assert word_starts("员工", halves(offsets), own, lambda run: [run]).sum() == 1


# ------------------------------------------------------------------------------- what is said


def test_each_segmenter_of_the_config_has_a_row_and_an_extra():
    annotation = TokenizationConfig.model_fields["word_segmenter"].annotation
    names = {name for part in get_args(annotation) for name in get_args(part)}
    assert set(SEGMENTERS) == names
    extras = importlib.metadata.metadata("mlmtune").get_all("Provides-Extra")
    assert {extra for extra, _ in SEGMENTERS.values()} <= set(extras)


def test_a_segmenter_that_is_missing_is_told_before_any_text_is_read(monkeypatch):
    monkeypatch.setattr(words_module, "distributions", lambda name: iter(()))
    needs = TextNeeds(word_segmenter="rjieba")
    text = CorpusText(
        CorpusConfig(sources=[SourceConfig(format="text", path="x")]), Console(is_quiet=True)
    )
    with pytest.raises(
        ConfigError, match=r"rjieba is not installed; .*pip install 'mlmtune\[zh\]'"
    ):
        needed_markers(needs, text)
    # On a machine with the store alone it may be missing: its words are in the store.
    named = replace(text, store=Path("somewhere"))
    assert [marker.made_by for marker in needed_markers(needs, named)] == [None]


def test_words_of_more_than_five_tokens_are_refused(make_store):
    tokens = [list(range(10, 40))] * 4
    sentences = [place % 6 == 0 for place in range(120)]
    words = [place % 4 == 0 for place in range(120)]
    check_words(make_store(tokens, words), "masking", "whole_word")
    with pytest.raises(ConfigError, match=r"masking\.strategy: whole_word: the words of source 0 "
                       r"have 6\.0 tokens on average.*word_segmenter: rjieba"):  # fmt: skip
        check_words(make_store(tokens, sentences), "masking", "whole_word")
    # One good source does not hide another.
    half = [True] * 60 + sentences[:60]
    with pytest.raises(ConfigError, match="the words of source 1 have"):
        check_words(make_store(tokens, half, sources=[0, 0, 1, 1]), "evaluation", "span")


def test_words_of_a_script_that_the_tokenizer_hardly_knows_are_words(make_store):
    """As of Hindi in RoBERTa: twelve tokens of bytes, and six characters."""
    store = make_store([list(range(10, 40))] * 4, [place % 12 == 0 for place in range(120)])
    lengths = store.documents.lengths

    def check(**counts):
        documents = replace(store.documents, **counts)
        return check_words(replace(store, documents=documents), "masking", "whole_word")

    hindi = {"num_characters": lengths // 2, "num_text_words": lengths // 12}
    note = check(**hindi)
    assert "have 12.0 tokens on average, because the tokenizer hardly knows their script" in note
    thai = hindi | {"num_characters": 2 * lengths}  # a clause of 24 characters
    chinese = hindi | {"num_text_words": lengths // 2}  # of six ideographs
    for counts in (thai, chinese):
        with pytest.raises(ConfigError, match="so they are not words"):
            check(**counts)


def test_masking_words_that_are_tokens_is_said(make_store):
    note = check_words(make_store([[10, 11, 12]] * 9), "masking", "whole_word")
    assert note is not None
    assert "nearly every token is a word of its own" in note
    words = [place % 3 > 0 for place in range(27)]
    assert check_words(make_store([[10, 11, 12]] * 9, words), "masking", "whole_word") is None
