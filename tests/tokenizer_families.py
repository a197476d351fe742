"""Small tokenizers of each family, which hardly know more than characters or bytes."""

import json
import unicodedata

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from mlmtune.tokens.ideographs import with_joined_words

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


IDEOGRAPH_WORDS = ["文字", "计算", "计算机", "算文"]


def words_of_ideographs():
    """BERT's, with words of several ideographs."""
    backend = word_pieces(normalizers.BertNormalizer(lowercase=True), BERT)
    content = json.loads(backend.to_str())
    vocabulary = content["model"]["vocab"]
    for entry in (*IDEOGRAPH_WORDS, *"文字计算机"):
        vocabulary[entry] = len(vocabulary)
    return Tokenizer.from_str(json.dumps(with_joined_words(content, IDEOGRAPH_WORDS)))


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


def unigram(normalizer=None, pre_tokenizer=None):
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("re", -3.0), ("▁भा", -3.0), ("रत", -3.0)]
    pieces += [(letter, -4.0) for letter in letters()]
    backend = Tokenizer(models.Unigram(pieces, 0, False))
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
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
    "BERT, words of ideographs": words_of_ideographs,
    "WordPiece": lambda: word_pieces(normalizers.NFC(), pre_tokenizers.Whitespace()),
    "GPT-2": lambda: byte_pieces(
        BYTES, post_processor=processors.ByteLevel(trim_offsets=True)
    ),
    "RoBERTa": lambda: byte_pieces(
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        post_processor=processors.ByteLevel(trim_offsets=True),
    ),
    "ModernBERT": lambda: byte_pieces(BYTES, normalizer=normalizers.NFC()),
    "XLM-R": unigram,
    "ALBERT": lambda: unigram(normalizers.Sequence(
        [
            normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(),
            normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )),
    "Metaspace": lambda: unigram(pre_tokenizer=pre_tokenizers.Metaspace()),
    "BPE": bpe_of_characters,
    "WordLevel": words,
}  # fmt: skip
