"""Texts -> ids: the Rust part of a tokenizer, without special tokens, truncation or padding."""

import json
import re
import string
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from mlmtune.errors import ConfigError
from mlmtune.tokens.borders import Offsets, begins_joined, is_punctuation, word_starts
from mlmtune.tokens.ideographs import joined_words
from mlmtune.tokens.pieces import Cutter
from mlmtune.tokens.word_cache import Tokens, WordCache
from mlmtune.tokens.word_splitting import word_splitter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("cls", "sep", "pad", "mask", "bos", "eos", "unk")
"""The roles of special tokens. Text that spells a token with a role stays text."""

PARTS_PER_TEXT = 500
"""The number of new parts of words that are encoded as one text; texts are shared by threads."""
_SIMPLE_PART = re.compile(r"[A-Za-z0-9]+|[!-~]")

_UNUSUAL = (
    " a  b\n\n\tc \u00a0d\u2003\u3000e\u2028f .\u200bg h\u200b i\u0301 don't ``k`` [l]\r\n"
    "\u6587\u5b57\u3002 \u0e44\u0e17\u0e22 \ufb01\u00a8 \u0130 \U0001f469\u200d\U0001f692 m",
    "a \u0301b .\u200b c \u200d.d\n\u0600e",
)
"""Texts with what a tokenizer may treat in a way of its own: spaces, marks, joiners, forms."""
_BEFORE = "a"
"""The word before another one, where it matters that there is one."""


def role_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Return the special tokens that have a role in the model's input, and their ids.

    Other tokens that a tokenizer calls special, such as entity markers that a user added, are
    tokens of the text.
    """
    roles = {role: getattr(tokenizer, f"{role}_token") for role in ROLES}
    return {
        str(token): int(getattr(tokenizer, f"{role}_token_id"))
        for role, token in roles.items()
        if token is not None
    }


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """Copy the Rust tokenizer so that it neither truncates nor pads, and reads `[MASK]` as text.

    Text never becomes a special token with a role. Text that spells any other special token
    becomes that token, as with `tokenizer(text)`.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    hidden = set(role_tokens(tokenizer))
    for token in content["added_tokens"]:
        token["special"] = token["content"] in hidden
    _rename_entries(content, hidden)
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _rename_entries(content: dict[str, Any], hidden: set[str]) -> None:
    """Rename the vocabulary entries of hidden tokens in a tokenizer.json, so that no text has them.

    `encode_special_tokens` alone is not enough: if the vocabulary itself has `</s>`, a Unigram
    model prefers it to its letters, and a model of whole words finds it.
    """
    model = content["model"]
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        return  # its entries are reached only by merges, and no merge makes a special token
    entries = model["vocab"]
    names = {name for name, _ in entries} if isinstance(entries, list) else set(entries)
    # The model finds its unknown token by name, and unknown text becomes that token anyway.
    renamed = {name: f"\0{name}\0" for name in hidden & names if name != model.get("unk_token")}
    if isinstance(entries, list):  # Unigram
        model["vocab"] = [[renamed.get(name, name), score] for name, score in entries]
    else:
        model["vocab"] = {renamed.get(name, name): id_ for name, id_ in entries.items()}
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in renamed]


def largest_id(backend: Tokenizer) -> int:
    """Return the largest id of a vocabulary, which may have gaps."""
    return max(backend.get_vocab().values())


def framed(tokenizer: "PreTrainedTokenizerFast", *, is_pair: bool = False) -> Encoding:
    """Encode a text, or a pair of texts, with the special tokens of the tokenizer's template.

    The text has at least one token, so that the encoding shows where the template puts text.

    Raises:
        ConfigError: The tokenizer makes no token of any text.
    """
    backend = plain_backend(tokenizer)
    for text in chain("a", backend.get_vocab()):
        if len(backend.encode(text, add_special_tokens=False)):
            return backend.encode(text, text if is_pair else None)
    raise ConfigError(f"{tokenizer.name_or_path}: the tokenizer makes no token of any text")


class Encoder:
    """A Rust tokenizer that returns arrays, and says which tokens begin a word.

    Args:
        backend: The tokenizer as `plain_backend` returns it.
        by_words: Whether each distinct word is encoded once, if the tokenizer allows it.

    Attributes:
        cutter: Cuts texts that are too long to be encoded at once.
        dtype: The type of an id.
    """

    def __init__(self, backend: Tokenizer, *, by_words: bool = True) -> None:
        content, num_ids = json.loads(backend.to_str()), largest_id(backend) + 1
        self._backend = backend
        self._continues_word = _continuing_pieces(content, num_ids)
        self.cutter = Cutter(content)
        self.dtype = np.dtype(np.uint16 if num_ids <= 2**16 else np.int32)
        self._words = self._word_cache(content) if by_words else None

    def __call__(self, texts: list[str]) -> Tokens:
        """Return the tokens of some texts, without special tokens."""
        if self._words is None:
            return self.encode_whole(texts)
        ids, starts_word, lengths = self._words(texts)
        if self._continues_word is not None:
            return ids, _word_starts_of(ids, self._continues_word, lengths), lengths
        starts_word[_first_tokens(lengths)] = True
        return ids, starts_word, lengths

    def verifies_words(self, texts: list[str]) -> bool:
        """Whether texts, and two of odd characters, have the same tokens in both ways."""
        if self._words is None:
            return True
        texts = [*_UNUSUAL, *texts]
        pairs = zip(self(texts), self.encode_whole(texts), strict=True)
        return all(np.array_equal(by_words, expected) for by_words, expected in pairs)

    def encode_whole(self, texts: list[str]) -> Tokens:
        """Return what a call returns, without looking up words that were encoded before."""
        # `encode_batch_fast` does not compute offsets.
        needs_offsets = self._continues_word is None
        encode = self._backend.encode_batch if needs_offsets else self._backend.encode_batch_fast
        encodings = encode(texts, add_special_tokens=False)
        lengths = np.asarray([len(encoding) for encoding in encodings], dtype=np.int64)
        num_tokens = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), self.dtype, num_tokens)
        if self._continues_word is None:
            own = partial(_own_word_starts, encodings, num_tokens)
            return ids, word_starts(texts, _offsets(encodings), lengths, own), lengths
        return ids, _word_starts_of(ids, self._continues_word, lengths), lengths

    def excerpt(self, text: str, tokens: NDArray[np.bool_]) -> tuple[str, NDArray[np.bool_]]:
        """Return a text that has some tokens of a text, in the same words, and few others.

        Args:
            text: The text.
            tokens: (n,) Which of its tokens.

        Returns:
            The shorter text, and which of its tokens they are.
        """
        if self._words is None or self._continues_word is None:
            return text, tokens
        return self._words.words_of(text, tokens)

    def offsets(self, texts: list[str]) -> list[Offsets]:
        """Return the positions of the tokens in each text, of the tokens that a call returns."""
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [_offsets([encoding]) for encoding in encodings]

    def _word_cache(self, content: dict[str, Any]) -> WordCache | None:
        """Return a cache of the tokenizer's words, if it encodes each of them independently."""
        split = word_splitter(content)
        if split is None or not self.encode_whole([_BEFORE])[0].size:
            return None
        by_ids = self._continues_word is not None
        return WordCache(split, self._encode_parts if by_ids else self._encode_words)

    def _encode_parts(self, parts: list[str]) -> Tokens:
        """Return the tokens of parts of words; many in one text take half as long as one by one."""
        groups: list[list[str]] = []
        for is_simple, run in groupby(parts, lambda part: _SIMPLE_PART.fullmatch(part) is not None):
            size, alike = PARTS_PER_TEXT if is_simple else 1, list(run)
            groups += [alike[first : first + size] for first in range(0, len(alike), size)]
        ids, starts_word, lengths = self.encode_whole([" ".join(group) for group in groups])
        lengths_of_parts = [np.empty(0, dtype=np.int64)]
        own_starts = np.split(starts_word, np.cumsum(lengths)[:-1]) if groups else []
        for group, starts in zip(groups, own_starts, strict=True):
            # A simple part has one token that begins a word, or more: its first one.
            firsts = np.flatnonzero(starts) if len(group) > 1 else np.zeros(1, dtype=np.int64)
            if len(firsts) != len(group):
                return self.encode_whole(parts)
            lengths_of_parts.append(np.diff(firsts, append=len(starts)))
        return ids, starts_word, np.concatenate(lengths_of_parts)

    def _encode_words(self, words: list[str]) -> Tokens:
        """Return the tokens that words have where another word is before them."""
        ids, starts_word, lengths = self.encode_whole(words)
        firsts = np.cumsum(lengths) - lengths
        for number, word in enumerate(words):
            if lengths[number] and word.isspace():  # at the end of a text
                starts = self.encode_whole([_BEFORE + word])[1]
                starts_word[firsts[number]] = starts[-lengths[number]]
        return ids, starts_word, lengths


def _first_tokens(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of the first token of each text that has tokens."""
    firsts: NDArray[np.int64] = (np.cumsum(lengths) - lengths)[lengths > 0]
    return firsts


def _word_starts_of(
    ids: NDArray[Any], continues_word: NDArray[np.bool_], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return (n,) whether each token begins a word, by its id."""
    starts_word: NDArray[np.bool_] = ~continues_word[ids]
    starts_word[_first_tokens(lengths)] = True
    return starts_word


def _offsets(encodings: list[Encoding]) -> Offsets:
    """Return the positions of the tokens of some texts, each in its own text."""
    positions = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    num_tokens = sum(len(encoding) for encoding in encodings)
    starts, ends = np.fromiter(positions, np.int64, 2 * num_tokens).reshape(-1, 2).T
    return Offsets(starts, ends)


def _own_word_starts(encodings: list[Encoding], num_tokens: int) -> NDArray[np.bool_]:
    """Return (n,) whether the tokenizer's pre-tokenizer begins a word with each token."""
    word_ids = chain.from_iterable(encoding.word_ids for encoding in encodings)
    # A token without a word has None, which becomes NaN as a float.
    words = np.nan_to_num(np.fromiter(word_ids, np.float64, num_tokens), nan=-1.0)
    starts_word: NDArray[np.bool_] = np.diff(words, prepend=-2.0) != 0
    return starts_word


def _continuing_pieces(content: dict[str, Any], num_ids: int) -> NDArray[np.bool_] | None:
    """Return (num_ids,) whether each id continues a word; None if the id alone does not tell.

    For BERT it does: WordPiece marks the tokens that continue a word, and no word of the text
    begins with that mark, because the pre-tokenizer makes punctuation a word by itself. Then the
    tokenizer need not keep track of offsets, which takes a quarter of its time. It does not if a
    token was added that is found inside words.
    """
    model = content["model"]
    prefix = model.get("continuing_subword_prefix")
    if model["type"] != "WordPiece" or joined_words(content) is None:
        return None
    if not prefix or prefix[0] not in string.punctuation:
        return None
    added = {token["content"]: token for token in content["added_tokens"]}
    if any(_cuts_words(token) for token in added.values()):
        return None
    continues = np.zeros(num_ids, dtype=bool)
    for token, id_ in model["vocab"].items():
        # After punctuation, the tokenizer makes a combining mark a word by itself.
        continues[id_] = token not in added and (token.startswith(prefix) or begins_joined(token))
    return continues


def _cuts_words(added_token: dict[str, Any]) -> bool:
    """Whether a text may have this token and letters in one word."""
    edges = added_token["content"][:1] + added_token["content"][-1:]
    is_found_in_text = not added_token["special"] and not added_token["single_word"]
    return is_found_in_text and not all(is_punctuation(character) for character in edges)
