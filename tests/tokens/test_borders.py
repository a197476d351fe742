"""The law of words: in every family of tokenizers they begin where the words of the text do."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from mlmtune.tokens.encoding import Encoder

# Each with its words, white space left out: what punctuation and spaces part.
SCRIPTS = {
    "English": ("Don't re-use x86_64, C++!", "Don ' t re - use x86 _ 64 , C + + !"),
    "numbers": ("3.14 kB, 5€ at 10%", "3 . 14 kB , 5€ at 10 %"),
    "Hindi": ("हिन्दी भारत की राजभाषा है ।", "हिन्दी भारत की राजभाषा है ।"),
    "Bengali": ("বাংলা ভাষা, কর্ম করি।", "বাংলা ভাষা , কর্ম করি ।"),
    "Tamil": ("தமிழ் மொழி (இனிது).", "தமிழ் மொழி ( இனிது ) ."),
    "Malayalam": ("അവന്\u200d മലയാളം", "അവന്\u200d മലയാളം"),
    "Arabic": ("اللُّغَةُ العَرَبِيَّةُ، جَمِيلَةٌ؟", "اللُّغَةُ العَرَبِيَّةُ ، جَمِيلَةٌ ؟"),
    "Persian": ("می\u200cخواهم بروم.", "می\u200cخواهم بروم ."),
    "Hebrew": ("בְּרֵאשִׁית בָּרָא־אֱלֹהִים", "בְּרֵאשִׁית בָּרָא ־ אֱלֹהִים"),
    "Vietnamese": ("tie\u0302\u0301ng Vie\u0323\u0302t.", "tie\u0302\u0301ng Vie\u0323\u0302t ."),
    "Thai": ("ภาษาไทย ที่นี่ 25 ปี", "ภาษาไทย ที่นี่ 25 ปี"),
    "Lao": ("ພາສາລາວ ຢູ່ນີ້", "ພາສາລາວ ຢູ່ນີ້"),
    "Khmer": ("សូម ស្វាគមន៍ កម្ពុជា។", "សូម ស្វាគមន៍ កម្ពុជា ។"),
    "Burmese": ("မြန်မာ စာ။", "မြန်မာ စာ ။"),
    "Tibetan": ("བོད་སྐད", "བོད ་ སྐད"),
    "Korean": ("한국어 \u1112\u1161\u11ab글, 2급!", "한국어 \u1112\u1161\u11ab글 , 2급 !"),
    "Greek": ("Η Ελλα\u0301δα· ναι;", "Η Ελλα\u0301δα · ναι ;"),
    "Cyrillic": ("Ще\u0301дрий и\u0306 «день»", "Ще\u0301дрий и\u0306 « день »"),
    "Georgian": ("ქართული ენა-ა", "ქართული ენა - ა"),
    "Armenian": ("Հայոց՝ լեզու։", "Հայոց ՝ լեզու ։"),
    "Amharic": ("አማርኛ፡ቋንቋ።", "አማርኛ ፡ ቋንቋ ።"),
    "emoji": (
        "ok 👩🏽\u200d🚒, ❤\ufe0f! #\ufe0f\u20e3 b",
        "ok 👩🏽\u200d🚒 , ❤\ufe0f ! #\ufe0f\u20e3 b",
    ),
}
PARAGRAPH = "\n\n".join(text for text, _ in SCRIPTS.values())


ALPHABET = [*"ab1é.,'_ \n$€ß", *"कทخא", *"ि्ีុّ\u200d\ufe0f\u0301", "👩", "🏽"]
JOINED = "".join(c for c in ALPHABET if unicodedata.category(c) in ("Mn", "Mc", "Cf"))
APART = set(".,'_$")


def letters():
    """What each family knows besides a few pieces: a word piece for each character."""
    text = "".join((PARAGRAPH, *ALPHABET, "abcdefghijklmnopqrstuvwxyz"))
    forms = (text, text.lower(), unicodedata.normalize("NFD", text.lower()))
    return sorted({*"".join(forms)} - {" ", "\n"})


def word_pieces(normalizer, pre_tokenizer):
    pieces = ["[UNK]", "re", "##म", *letters(), *(f"##{letter}" for letter in letters())]
    vocabulary = {piece: id_ for id_, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    return backend


def byte_pieces(pre_tokenizer, **settings):
    """Hardly more than single bytes, so that most characters are cut."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([PARAGRAPH], trainer)
    for name, value in settings.items():
        setattr(backend, name, value)
    return backend


def unigram(normalizer=None):
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("re", -3.0), ("▁भा", -3.0), ("रत", -3.0)]
    pieces += [(letter, -4.0) for letter in letters()]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    if normalizer is not None:
        backend.normalizer = normalizer
    return backend


def bpe_of_characters():
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator([PARAGRAPH], trainer)
    return backend


def words():
    """Whole words, looked up; what is between spaces is one token, whatever is in it."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


BERT = pre_tokenizers.BertPreTokenizer()
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
MAKERS = {
    "BERT, cased": lambda: word_pieces(normalizers.BertNormalizer(lowercase=False), BERT),
    "BERT, uncased": lambda: word_pieces(normalizers.BertNormalizer(lowercase=True), BERT),
    "BERT, accents stripped": lambda: word_pieces(
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), BERT
    ),
    "WordPiece": lambda: word_pieces(normalizers.NFC(), pre_tokenizers.Whitespace()),
    "GPT-2": lambda: byte_pieces(BYTES),
    "RoBERTa": lambda: byte_pieces(
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        post_processor=processors.ByteLevel(trim_offsets=True),
    ),
    "ModernBERT": lambda: byte_pieces(BYTES, normalizer=normalizers.NFC()),
    "XLM-R": unigram,
    "ALBERT": lambda: unigram(normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )),
    "BPE": bpe_of_characters,
    "WordLevel": words,
}  # fmt: skip


@pytest.fixture(scope="module", params=MAKERS)
def backend(request):
    return MAKERS[request.param]()


def first_visible(text, start):
    return start + len(text[start:]) - len(text[start:].lstrip())


def found_starts(backend, text):
    """The character at which each word begins, and those at which a token does."""
    _, starts, _ = Encoder(backend)([text])
    offsets = backend.encode(text, add_special_tokens=False).offsets
    assert len(starts) == len(offsets)
    places = [first_visible(text, start) for start, _ in offsets]
    begun = [place for place, is_start in zip(places, starts, strict=True) if is_start]
    return begun, places


def places_of(text, words_of_text):
    places, end = [], 0
    for word in words_of_text.split():
        places.append(text.index(word, end))
        end = places[-1] + len(word)
    return places


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_begin_where_those_of_the_text_do(backend, script):
    text, expected = SCRIPTS[script]
    borders = places_of(text, expected)
    begun, places = found_starts(backend, text)
    # Where a token holds several words, only the first of them begins with it.
    assert begun == [place for place in borders if place in places]
    assert len(begun) >= len(text.split())


def test_each_family_has_the_words_of_the_first_two_lines_of_hindi(backend):
    text = "हिन्दी भारत की राजभाषा है और इसे करोड़ों लोग बोलते हैं ।\nविद्यार्थी विश्वविद्यालय में पढ़ते हैं ।"
    assert len(found_starts(backend, text)[0]) == 18


def is_border(text, place):
    """Whether a word begins here that does not begin the text; None where nothing tells.

    A mark after punctuation or a space has no letter that it belongs to.
    """
    before, here = text[place - 1], text[place : place + 1]
    base = text[:place].rstrip(JOINED)[-1:]
    if before in JOINED and (base in APART or not base.strip()):
        return None
    return here not in JOINED and (before.isspace() or before in APART or here in APART)


@settings(max_examples=25)
@given(texts=st.lists(st.text(st.sampled_from(ALPHABET), max_size=24), min_size=1, max_size=4))
def test_a_token_begins_a_word_just_where_the_text_has_a_border(backend, texts):
    _, starts, lengths = Encoder(backend)(texts)
    ends = np.cumsum(lengths)
    for text, begin, end in zip(texts, ends - lengths, ends, strict=True):
        alone = Encoder(backend)([text])[1]
        assert starts[begin:end].tolist() == alone.tolist()  # whatever stands beside it
        begun, places = found_starts(backend, text)
        assert begun[:1] == places[:1]
        assert not any(is_border(text, place) is False for place in begun[1:])
        others = set(places) - set(begun)
        assert not any(is_border(text, place) for place in others if 0 < place < len(text))


@pytest.mark.parametrize("name", ["BERT, uncased", "GPT-2"])
def test_a_token_that_was_added_is_no_border_within_a_word(name):
    backend = MAKERS[name]()
    backend.add_tokens(["kube", "[URL]", AddedToken("helm", single_word=True)])
    text = "kubectl kubes helm [URL]a"
    begun, places = found_starts(backend, text)
    assert begun == [0, 8, 14, 19, 24]
    assert {4, 12} <= set(places)


def test_where_words_begin_is_known_by_id_unless_a_token_was_added_within_words():
    backend = MAKERS["BERT, uncased"]()
    backend.add_tokens(["[URL]", AddedToken("helm", single_word=True)])
    assert Encoder(backend)._continues_word is not None
    backend.add_tokens(["kube"])
    assert Encoder(backend)._continues_word is None
