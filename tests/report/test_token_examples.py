import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from mlmtune.report.token_examples import in_its_word


@pytest.fixture(params=["tokenizer", "byte_tokenizer", "unigram_tokenizer"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


def test_a_token_becomes_the_word_that_it_is_a_part_of(any_tokenizer):
    text = "the keys of scale-sets: deleted tables, faster 42 vaults"
    encoding = any_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoding["input_ids"], encoding["offset_mapping"]
    starts = [
        n for n, c in enumerate(text) if c.isalnum() and (n == 0 or not text[n - 1].isalnum())
    ]
    whole = {start: "".join(c if c.isalnum() else " " for c in text[start:]).split()[0]
             for start in starts}  # fmt: skip
    num_joined = 0
    for number, (begin, end) in enumerate(spans):
        piece = text[begin:end]
        if not piece.strip().isalnum():
            continue
        begin += len(piece) - len(piece.lstrip())
        start = max(s for s in starts if s <= begin)
        word_end = start + len(whole[start])
        right = [id_ for id_, (b, e) in zip(ids, spans, strict=True) if begin < b and e <= word_end]
        shown = in_its_word(any_tokenizer, ids[:number], ids[number], right)
        assert shown == whole[start]
        num_joined += shown != piece.strip()
    assert num_joined > 3


def test_the_parts_of_a_word_that_were_hidden_are_left_open(any_tokenizer):
    def shown(left, piece, right):
        return in_its_word(any_tokenizer, left, piece, right)

    mask = any_tokenizer.mask_token_id
    first, *others = any_tokenizer(" keyz", add_special_tokens=False)["input_ids"]
    last = others[-1]
    the = any_tokenizer("the", add_special_tokens=False)["input_ids"]
    assert shown([*the, mask], last, []) == "…z"
    assert shown([*the, first, *others[:-1]], last, [mask]) == "keyz…"
    # A token that begins a word of its own does not continue the one before it.
    assert shown([*the, mask], first, []).startswith("k")


def test_a_piece_is_never_shown_bare_at_the_beginning_of_a_text(tokenizer):
    *_, last = tokenizer("keyz", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([last]) == "##z"
    for left in ([], [tokenizer.cls_token_id]):
        assert in_its_word(tokenizer, left, last, []) == "…z"
        [the] = tokenizer("the", add_special_tokens=False)["input_ids"]
        assert in_its_word(tokenizer, left, the, []) == "the"


def test_ideographs_are_words_of_their_own():
    backend = Tokenizer(WordPiece({c: n for n, c in enumerate("员工可以")}))
    backend.decoder = decoders.WordPiece()
    chinese = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]")
    assert in_its_word(chinese, [0, 1], 2, []) == "可"
    assert in_its_word(chinese, [0, chinese.mask_token_id], 2, []) == "可"
