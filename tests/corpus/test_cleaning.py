import codecs
import time
import unicodedata
from collections import Counter

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus import cleaning, long_text
from mlmtune.corpus.cleaning import (
    STEPS,
    clean,
    content_hash,
    count_words,
    find_words,
    letter_share,
    word_slices,
    words,
)

KEEP_ALL = {"unicode": "keep", "control_characters": "keep", "white_space": "keep"}


def cleaned(text, markup="none", **settings):
    return clean(text, markup, CleaningConfig(**settings), MarkdownConfig(), Counter())


def removed_from(text, markup="none", **settings):
    removed = Counter()
    clean(text, markup, CleaningConfig(**settings), MarkdownConfig(), removed)
    return {step: count for step, count in removed.items() if count}


def test_plain_text_loses_nothing_but_what_no_one_sees():
    text = "\ufeff one\r\ntwo\rthree\x00\x07\t4  5\x0cpage \n\n\n\n   in\u200bden\xadted\u2060\n\n"
    assert cleaned(text) == "one\ntwo\nthree\t4  5\npage\n\n   indented"


def test_each_step_counts_what_it_took():
    assert removed_from("a\r\nb") == {"line_ends": 1}
    assert removed_from("\ufeffa\u200b\xad\x01b") == {"control_characters": 4}
    assert removed_from("Ka\u0308se") == {"unicode": 1}
    assert removed_from("\u0958") == {"unicode": -1}  # Unicode has no composed form of it
    assert removed_from("a\u3000\u2009\n\n\n\nb ") == {"white_space": 5}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "macroman"])
@pytest.mark.parametrize("text", ["l’été à la forêt où", "中文，字符"])
def test_words_that_were_read_in_a_wrong_encoding_are_repaired(text, encoding):
    # Bytes that an encoding does not define are often read as the control characters of Latin-1.
    codecs.register_error(
        "as_latin_1", lambda e: (e.object[e.start : e.end].decode("latin-1"), e.end)
    )
    garbled = text.encode().decode(encoding, "as_latin_1")
    whole = f"Fine: ﬁ “x” 全角 １ &eacute; \x1b[1m\n{garbled}\nã"
    repaired = cleaned(whole, mojibake="repair", **KEEP_ALL)
    assert repaired == whole.replace(garbled, text)
    assert removed_from(whole, mojibake="repair", **KEEP_ALL) == {
        "mojibake": len(garbled) - len(text)
    }
    assert cleaned(whole, **KEEP_ALL) == whole


def test_mojibake_is_repaired_before_its_control_characters_are_removed():
    assert (
        cleaned("\xc3\x85rhus, na\xc3\xafve, \xe2\x80\x93", mojibake="repair") == "Århus, naïve, –"
    )


def test_a_long_line_is_repaired_in_pieces(monkeypatch):
    monkeypatch.setattr(cleaning, "SLICE_CHARACTERS", 7)
    text = "größere Wörter für Übergänge " * 3
    garbled = text.encode().decode("latin-1")
    assert cleaned(garbled, mojibake="repair", **KEEP_ALL) == text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"unicode": "keep"}, "a\u0308"),
        ({"control_characters": "keep"}, "a\x00\u200b\xadb"),
        ({"white_space": "keep"}, " a\xa0b \n\n\n\n"),
    ],
)
def test_each_step_can_be_left_out(settings, text):
    assert cleaned(text, **settings) == text
    assert cleaned(text) != text


def test_line_ends_are_made_the_same_in_any_case():
    assert cleaned("a\r\nb\rc\u2028d\x85e\vf\n", **KEEP_ALL) == "a\nb\nc\nd\ne\nf\n"


def test_half_a_surrogate_pair_becomes_a_character_that_can_be_written():
    assert cleaned("a\ud800b", **KEEP_ALL) == "a\ufffdb"


def test_wide_spaces_become_plain_ones_and_joiners_stay():
    assert cleaned("a\xa0b\u2003c\u3000d\u202fe") == "a b c d e"
    assert cleaned("می\u200cخواهم 👩\u200d💻") == "می\u200cخواهم 👩\u200d💻"


KHMER = "សូម\u200bស្វាគមន៍\u200bមក\u200bកាន់\u200bប្រទេស\u200bកម្ពុជា"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (KHMER, "សូម ស្វាគមន៍ មក កាន់ ប្រទេស កម្ពុជា"),
        ("ສະບາຍ\u200bດີ", "ສະບາຍ ດີ"),
        ("မြန်မာ\u200b\u200bစာ", "မြန်မာ စာ"),
        ("ภาษา\u200bไทย", "ภาษา ไทย"),
        ("ប្រទេស\u2060\u200b\xadកម្ពុជា", "ប្រទេស កម្ពុជា"),
        ("ក្នុង\u200bAzure\u200bឆ្នាំ\u200b២០២៤", "ក្នុង Azure ឆ្នាំ ២០២៤"),
        # Where something else parts the words, nothing takes its place.
        ("ភាសា\u200b។", "ភាសា។"),
        ("ภาษา \u200bไทย\u200b", "ภาษา ไทย"),
        # Where spaces part words, or nothing does, it says where a line may break.
        ("scale\u200bset", "scaleset"),
        ("हिन्\u200bदी", "हिन्दी"),
        ("数据\u200b很重要", "数据很重要"),
        ("テキ\u200bスト", "テキスト"),
    ],
)
def test_a_zero_width_space_that_parts_words_becomes_a_space(source, text):
    assert cleaned(source) == text
    removed = removed_from(source)
    assert sum(removed.values()) == len(source) - len(text)
    assert set(removed) <= {"control_characters"}


@pytest.mark.parametrize("markup", ["markdown", "html"])
def test_a_word_border_between_markup_and_spelt_by_an_entity_stays(markup):
    assert cleaned("<b>សូម</b>\u200b<b>មក</b>&#8203;កាន់", markup) == "សូម មក កាន់"
    assert cleaned("<b>in</b>\u200b<b>den</b>&#8203;ted", markup) == "indented"
    assert cleaned("សូម<wbr>មក<WBR/>កាន់ in<wbr>dented", markup) == "សូម មក កាន់ indented"


@pytest.mark.parametrize(
    "text",
    ["می\u200cخواهم", "क्\u200dष", "ক্\u200cষ", "നന്\u200d", "ක්\u200dෂ", "👩\u200d🚒 ❤\ufe0f"],
)
def test_joiners_and_variation_selectors_stay(text):
    assert cleaned(text) == text


def test_what_entities_spell_is_cleaned_too():
    source = "a&#8203;b&nbsp;c&shy;d e&#769;"
    assert cleaned(source, "html") == cleaned(source, "markdown") == "ab cd é"


def test_markup_is_taken_for_what_it_is_said_to_be():
    source = "*one*<br />two &amp; three"
    assert cleaned(source, "none") == source
    assert cleaned(source, "html") == "*one*\ntwo & three"
    assert cleaned(source, "markdown") == "one\ntwo & three"


def test_a_byte_order_mark_and_foreign_line_ends_do_not_hide_front_matter():
    assert cleaned("\ufeff---\r\ntitle: a\r\n---\r\n# b", "markdown") == "b"


documents = st.one_of(
    st.text(st.characters()),
    st.lists(
        st.sampled_from(
            ["\r", "\n", " ", "\t", "\ufeff", "\u200b", "\xa0", "\x00", "\ud800", "a", "\u0308",
             "ក", "ា", "中", "&#8203;", "&nbsp;", "<br>", "<!--", "-->", "*", "`", "|", "-", "[",
             "](", ")", ":::", "[!a", "![", "---", "#", "\u0958", "\u2028"]
        )
    ).map("".join),
)  # fmt: skip
cleaning_settings = st.fixed_dictionaries(
    {
        name: st.sampled_from(field.annotation.__args__)
        for name, field in CleaningConfig.model_fields.items()
    }
)


@given(documents, st.sampled_from(["markdown", "html", "none"]), cleaning_settings)
def test_what_the_steps_count_adds_up(text, markup, settings):
    removed = Counter()
    result = clean(text, markup, CleaningConfig(**settings), MarkdownConfig(), removed)
    assert removed.total() == len(text) - len(result)
    assert set(removed) <= set(STEPS)
    result.encode()


@given(documents)
def test_cleaning_plain_text_again_changes_nothing(text):
    once = cleaned(text)
    assert cleaned(once) == once


@given(documents)
def test_plain_cleaning_conserves_all_visible_text(text):
    def visible(text):
        hidden = {"\ufeff", "\u200b", "\u2060", "\xad"}
        shown = (c for c in text if not c.isspace() and c not in hidden)
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in shown)

    shown = visible("".join(c for c in text if unicodedata.category(c) != "Cc"))
    assert visible(cleaned(text, unicode="keep")) == shown


@pytest.mark.parametrize(
    "source", [" " * 200_000 + "a", "a" + " \t" * 100_000 + "b\n", "\n" * 200_000]
)
def test_long_runs_of_white_space_are_quick(source):
    start = time.perf_counter()
    cleaned(source)
    assert time.perf_counter() - start < 2  # a hundredth of a second on an idle machine


def test_hash_sees_through_white_space_and_composition():
    assert content_hash("Käse  und\nBrot ") == content_hash("Ka\u0308se und Brot")
    assert content_hash("ab c") != content_hash("a bc")
    assert content_hash("Case") != content_hash("case")
    assert 0 <= content_hash("x") < 2**64


def test_hash_stays_the_same_between_versions():
    assert content_hash(" one\ntwo") == xxhash.xxh3_64_intdigest(b"one two")
    assert content_hash("one two") == 16650328638832365648


@given(text=st.text("ab\u0308é中 \t\n\x1c\x85\xa0\u3000"), size=st.integers(1, 40))
def test_hash_is_of_the_words_whatever_its_slices(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", size)
        sliced = content_hash(text)
    composed = unicodedata.normalize("NFC", text)
    assert sliced == xxhash.xxh3_64_intdigest(" ".join(composed.split()).encode())


@given(
    pieces=st.lists(st.text("ab1_'!\u0308\u0e01\u4e2d\u304b\u200d \U0001f600\u0430")),
    size=st.integers(1, 9),
)
def test_words_do_not_depend_on_their_slices(pieces, size):
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", size)
        sliced = list(word_slices(text))
        assert count_words(text) == len(words(text))
    assert "".join(sliced) == text
    assert [word for piece in sliced for word in words(piece)] == words(text)
    folded = text.casefold()
    assert [folded[slice(*found.span())] for found in find_words(folded)] == words(text)


def test_each_character_is_counted_as_the_words_it_makes():
    for first in [*range(0, 0x20000, 64), 0x2F800, 0xE0100, 0x10FFC0]:
        characters = map(chr, range(first, first + 64))
        text = " ".join(f"a{character}b {character} {character}c" for character in characters)
        assert count_words(text) == len(words(text)), hex(first)


HOSTILE = "ab \t\r\n\v\u200b\xad\u3000\u0e01\ud800<b>&lt;/-!"


@given(text=st.text(HOSTILE), size=st.integers(0, 5), markup=st.sampled_from(["none", "html"]))
def test_a_long_text_is_cleaned_like_a_short_one(text, size, markup):
    whole = cleaned(text, markup)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "BLOCK_CHARACTERS", size)
        patch.setattr(cleaning, "SLICE_CHARACTERS", size + 1)
        assert cleaned(text, markup) == whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the CAT: 2 cats!", ["the", "cat", "the", "cat", "2", "cats"]),
        ("Straße snake_case don't", ["strasse", "snake_case", "don", "t"]),
        ("今天用Azure云。", ["今", "天", "用", "azure", "云"]),
        ("カート・ひ", ["カ", "ー", "ト", "ひ"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("— …", []),
    ],
)
def test_words_are_folded_and_ideographs_stand_alone(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0.0), (" \n\u3000", 0.0), ("ab 12", 0.5), ("今天\u3000好。", 0.75),
     ("हिन्दी", 1.0), ("é1", 0.5)],
)  # fmt: skip
def test_letter_share_is_of_what_is_not_white_space(text, expected):
    assert letter_share(text) == expected


@given(st.text(st.sampled_from("aZé中हि 1_-\u3000\n。")), st.integers(1, 5))
def test_letter_share_is_the_count_of_each_character(text, size):
    num_letters = sum(c in "aZé中हि" for c in text)
    num_visible = sum(not c.isspace() for c in text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "SLICE_CHARACTERS", size)
        assert letter_share(text) == (num_letters / num_visible if num_visible else 0.0)
