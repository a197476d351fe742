"""WordCache: each distinct word of a corpus is encoded once, and texts are put together from words.

A tokenizer cuts a text into words before it looks for tokens, and many tokenizers cut at white
space whatever is around it. Then the tokens of a text are those of its words, one after the other.
A corpus has few distinct words, and looking one up takes a tenth of the time of encoding it.

`word_splitter` reads from a tokenizer.json whether that holds for white space, and `part_splitter`
for what is between it.
"""

import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.tokens.pieces import (
    IDEOGRAPHS,
    LOCAL_NORMALIZERS,
    PUNCTUATION,
    normalizers,
    normalizes_locally,
    parts_ideographs,
)

Tokens = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]
"""The ids of some texts' tokens, whether each begins a word, and the number of tokens per text."""
Splitter = Callable[[str], list[str]]
"""Cuts a text into words; only white space may be left out."""

MOST_WORDS = 1 << 18
"""The number of words at which a cache is emptied; each takes about 200 bytes."""
MOST_CHARACTERS = 1 << 24
"""The number of characters at which a cache is emptied, because some words are very long."""

_AMBIGUOUS_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
"""Control characters that are white space in Python, and for some tokenizers nothing at all."""

_PUNCTUATION = (
    PUNCTUATION + "\u2010-\u2016\u2018-\u2027\u3001-\u3003\u3008-\u3011"
    "\uff01-\uff03\uff05-\uff0a\uff0c-\uff0f\uff1a\uff1b\uff1f\uff20"
)
"""Punctuation of ASCII, of typography and of Chinese; any normalizer makes it punctuation again."""

_SPLITS_AT_SPACE = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_CUTS_WORDS = {"Digits", "Punctuation"}

_SPACE_AND_WORD = re.compile(r"\s*+\S++|\s++")
"""A word of byte-level BPE has the white space before it."""


def word_splitter(content: dict[str, Any]) -> Splitter | None:
    """Return what cuts texts at white space, if a tokenizer encodes what is between independently.

    It does if the pre-tokenizer always cuts there, the normalizer changes no character because of
    another word, and no added token reaches over white space.

    Args:
        content: The tokenizer.json, where tokens that no text becomes are special.
    """
    pre_tokenizer = content["pre_tokenizer"] or {"type": None}
    first, *others = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if content["model"].get("dropout"):
        return None
    added = [token for token in content["added_tokens"] if not token["special"]]
    if first["type"] in _SPLITS_AT_SPACE:
        if not all(map(_changes_words, normalizers(content))) or not all(map(_cuts_words, others)):
            return None
        return None if any(re.search(r"\s", t["content"]) for t in added) else _careful(str.split)
    if first["type"] == "ByteLevel" and not others and normalizes_locally(content):
        depends = _adds_space(first) or any(_leaves_word(token) for token in added)
        return None if depends else _careful(_SPACE_AND_WORD.findall)
    return None


def _careful(split: Splitter) -> Splitter:
    """Leave texts whole if they have control characters that may be white space or not."""

    def words(text: str) -> list[str]:
        is_ambiguous = any(character in text for character in _AMBIGUOUS_SPACES)
        return [text] if is_ambiguous else split(text)

    return words


def _changes_words(normalizer: dict[str, Any]) -> bool:
    """Whether a step of a normalizer changes each word regardless of the white space around it."""
    pattern = normalizer.get("pattern", {})
    if normalizer["type"] == "Replace":
        return pattern.get("Regex") == " {2,}" or not re.search(r"\s", pattern.get("String", " "))
    return normalizer["type"] in {*LOCAL_NORMALIZERS, "Precompiled"}


def _cuts_words(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether a step of a pre-tokenizer, after white space is gone, looks at one word only."""
    if pre_tokenizer["type"] == "Metaspace":
        return bool(pre_tokenizer["prepend_scheme"] != "first")  # the first word of a text
    return pre_tokenizer["type"] in _CUTS_WORDS


def _adds_space(byte_level: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer has other words at the beginning of a text, or none at all."""
    return byte_level["add_prefix_space"] or not byte_level["use_regex"]


def _leaves_word(added_token: dict[str, Any]) -> bool:
    """Whether an added token can take white space after a word; it may be white space itself."""
    content = added_token["content"]
    return added_token["rstrip"] or bool(re.search(r"\s", content) and content.strip())


def part_splitter(content: dict[str, Any]) -> Splitter | None:
    """Return what cuts a word into parts that BERT's pre-tokenizer makes words.

    There are fewer distinct parts than words between white space: think of web addresses, or of
    Chinese. Words with a character other than ASCII, punctuation and ideographs stay whole.

    Args:
        content: The tokenizer.json, where tokens that no text becomes are special.

    Returns:
        None if the normalizer or an added token may look at several parts.
    """
    has_added = any(not token["special"] for token in content["added_tokens"])
    if has_added or not normalizes_locally(content):
        return None
    ideographs = IDEOGRAPHS if parts_ideographs(content) else ""
    is_plain = re.compile(f"[A-Za-z0-9{_PUNCTUATION}{ideographs}]+").fullmatch
    parts = re.compile(f"[A-Za-z0-9]+|[{_PUNCTUATION}{ideographs}]").findall
    return lambda word: parts(word) if is_plain(word) else [word]


class WordCache:
    """Encodes texts by looking up their words.

    Args:
        split: Cuts a text into words.
        encode: Encodes new words.
    """

    def __init__(self, split: Splitter, encode: Callable[[list[str]], Tokens]) -> None:
        self._split = split
        self._encode = encode
        self._known = _Numbers()
        self._tokens = encode([])
        self._begins = np.empty(0, dtype=np.int64)

    def __call__(self, texts: list[str]) -> Tokens:
        """Return the tokens of some texts; a word begins at its first token in any case."""
        if len(self._known) > MOST_WORDS or self._known.num_characters > MOST_CHARACTERS:
            self._known, self._tokens = _Numbers(), self._encode([])
        texts_words = [self._split(text) for text in texts]
        words_per_text = np.fromiter(map(len, texts_words), np.int64, len(texts))
        words = self._numbers(chain.from_iterable(texts_words), int(words_per_text.sum()))
        ids, starts_word, lengths = self._tokens
        word_ends = np.cumsum(lengths[words])
        num_tokens = int(word_ends[-1]) if len(words) else 0
        # The tokens of a word lie side by side, at other places in the result than in the cache.
        shifts = self._begins[words] - (word_ends - lengths[words])
        places = np.repeat(shifts, lengths[words]) + np.arange(num_tokens)
        text_ends = np.concatenate([[0], word_ends])[np.cumsum(words_per_text)]
        return ids[places], starts_word[places], np.diff(text_ends, prepend=0)

    def words_of(self, text: str, tokens: NDArray[np.bool_]) -> tuple[str, NDArray[np.bool_]]:
        """Return the words of a text that have some of its tokens, and these tokens among theirs.

        Args:
            text: The text.
            tokens: (n,) Which of its tokens.
        """
        words = self._split(text)
        numbers = self._numbers(words, len(words))
        word_of_token = np.repeat(np.arange(len(words)), self._tokens[2][numbers])
        concerned = np.unique(word_of_token[tokens])
        kept = tokens[np.isin(word_of_token, concerned)]
        return " ".join(words[number] for number in concerned.tolist()), kept

    def _numbers(self, words: Iterable[str], count: int) -> NDArray[np.int32]:
        """Return (count,) the number of each word; new ones are encoded."""
        numbers = np.fromiter(map(self._known.__getitem__, words), np.int32, count)
        if self._known.new:
            new, self._known.new = self._known.new, []
            added = self._encode(new)
            ids, starts_word, lengths = map(np.concatenate, zip(self._tokens, added, strict=True))
            self._tokens = ids, starts_word, lengths
            self._begins = np.cumsum(lengths) - lengths
        return numbers


class _Numbers(dict[str, int]):
    """The number of each word; a word that is asked for the first time gets the next one.

    Attributes:
        new: The words that are not encoded yet.
        num_characters: The number of characters in all words.
    """

    def __init__(self) -> None:
        self.new: list[str] = []
        self.num_characters = 0

    def __missing__(self, word: str) -> int:
        self.new.append(word)
        self.num_characters += len(word)
        number = self[word] = len(self)
        return number
