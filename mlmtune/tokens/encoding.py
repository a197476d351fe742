"""Texts -> ids: the tokenizer's Rust half, without special tokens, truncation or padding."""

import json
import string
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from mlmtune.errors import ConfigError
from mlmtune.tokens.borders import Offsets, TextBorders, begins_joined, is_punctuation
from mlmtune.tokens.pieces import Cutter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("cls", "sep", "pad", "mask", "bos", "eos", "unk")
"""What a special token is for. Text that spells a token with a role stays text."""

Tokens = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]
"""Ids of texts, one text after the other; whether each begins a word; tokens of each text."""


def role_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """The special tokens that have a role in the model's input, and their ids.

    Others that are called special, such as entity markers that a user added, are tokens of the
    text.
    """
    roles = {role: getattr(tokenizer, f"{role}_token") for role in ROLES}
    return {
        str(token): int(getattr(tokenizer, f"{role}_token_id"))
        for role, token in roles.items()
        if token is not None
    }


def plain_backend(tokenizer: "PreTrainedTokenizerFast") -> Tokenizer:
    """A copy of the Rust tokenizer that neither truncates nor pads, and reads `[MASK]` as text.

    The special tokens with a role are hidden from the text; all others are tokens of the text, as
    `tokenizer(text)` has it.
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
    """Rename the vocabulary entries of hidden tokens, ids kept, so that no text spells them.

    `encode_special_tokens` alone does not do: where the vocabulary itself has `</s>`, a Unigram
    model prefers it to its letters, and a model of whole words looks it up.

    Args:
        content: of a tokenizer.json; changed in place.
        hidden: the tokens.
    """
    model = content["model"]
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        return  # reaches an entry by merges alone, and none makes a special token
    entries = model["vocab"]
    names = {name for name, _ in entries} if isinstance(entries, list) else set(entries)
    # The unknown token is found by its name; unknown text becomes it anyway.
    renamed = {name: f"\0{name}\0" for name in hidden & names if name != model.get("unk_token")}
    if isinstance(entries, list):  # Unigram
        model["vocab"] = [[renamed.get(name, name), score] for name, score in entries]
    else:
        model["vocab"] = {renamed.get(name, name): id_ for name, id_ in entries.items()}
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in renamed]


def largest_id(backend: Tokenizer) -> int:
    """The largest id of a vocabulary, which may have gaps."""
    return max(backend.get_vocab().values())


def framed(tokenizer: "PreTrainedTokenizerFast", *, is_pair: bool = False) -> Encoding:
    """Some text, or two, between the special tokens of the tokenizer's template.

    There is a token of each text: one that the tokenizer drops whole says nothing of the frame.
    """
    backend = plain_backend(tokenizer)
    for text in chain("a", backend.get_vocab()):
        if len(backend.encode(text, add_special_tokens=False)):
            return backend.encode(text, text if is_pair else None)
    raise ConfigError(f"{tokenizer.name_or_path}: the tokenizer makes no token of any text")


class Encoder:
    """A Rust tokenizer that gives ids as arrays, and says which tokens begin a word.

    Args:
        backend: as `plain_backend` makes it.

    Attributes:
        cutter: cuts texts that are too long to be given whole.
        dtype: of an id.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._continues_word = _continuing_pieces(backend)
        self.cutter = Cutter(backend)
        self.dtype = np.dtype(np.uint16 if largest_id(backend) < 2**16 else np.int32)

    def __call__(self, texts: list[str]) -> Tokens:
        """Tokens of all texts, without special ones."""
        is_told_by_id = self._continues_word is not None
        encode = self._backend.encode_batch_fast if is_told_by_id else self._backend.encode_batch
        encodings = encode(texts, add_special_tokens=False)
        lengths = np.asarray([len(encoding) for encoding in encodings], dtype=np.int64)
        num_tokens = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), self.dtype, num_tokens)
        if self._continues_word is None:
            return ids, _word_starts(texts, encodings, lengths), lengths
        word_starts = ~self._continues_word[ids]
        word_starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        return ids, word_starts, lengths

    def offsets(self, texts: list[str]) -> list[Offsets]:
        """Where the tokens of each text stand in it; those that a call gives the ids of."""
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [_offsets([encoding]) for encoding in encodings]


def _offsets(encodings: list[Encoding]) -> Offsets:
    """Where the tokens of some texts stand, each in its own text."""
    places = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    num_tokens = sum(len(encoding) for encoding in encodings)
    starts, ends = np.fromiter(places, np.int64, 2 * num_tokens).reshape(-1, 2).T
    return Offsets(starts, ends)


def _word_starts(
    texts: list[str], encodings: list[Encoding], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(n,) whether each token of some texts begins a word.

    Args:
        texts: one after the other.
        encodings: of each.
        lengths: tokens of each.
    """
    borders = TextBorders(texts)
    own = None
    if borders.has_unspaced:
        words = chain.from_iterable(_word_ids(encoding) for encoding in encodings)
        word_ids = np.fromiter(words, np.int64, int(lengths.sum()))
        own = np.ones(len(word_ids), dtype=bool)
        own[1:] = word_ids[1:] != word_ids[:-1]
    return borders.word_starts(_offsets(encodings), lengths, own)


def _continuing_pieces(backend: Tokenizer) -> NDArray[np.bool_] | None:
    """(V,) whether an id continues a word, where the vocabulary alone tells; else None.

    It does for BERT's kind: WordPiece marks what continues a word, and no word of the text begins
    with that mark, since the pre-tokenizer sets punctuation apart. Then the tokenizer need not keep
    track of words and offsets, which takes a quarter of its time. It does not where a token was
    added that is found within words.
    """
    content = json.loads(backend.to_str())
    model, pre_tokenizer = content["model"], content["pre_tokenizer"] or {}
    prefix = model.get("continuing_subword_prefix")
    if model["type"] != "WordPiece" or pre_tokenizer.get("type") != "BertPreTokenizer":
        return None
    if not prefix or prefix[0] not in string.punctuation:
        return None
    added = {token["content"]: token for token in content["added_tokens"]}
    if any(_cuts_words(token) for token in added.values()):
        return None
    continues = np.zeros(largest_id(backend) + 1, dtype=bool)
    for token, id_ in model["vocab"].items():
        # Of a mark after punctuation the tokenizer makes a word of its own.
        continues[id_] = token not in added and (token.startswith(prefix) or begins_joined(token))
    return continues


def _cuts_words(added_token: dict[str, Any]) -> bool:
    """Whether a text may have this token and letters beside it in one word."""
    edges = added_token["content"][:1] + added_token["content"][-1:]
    is_found_in_text = not added_token["special"] and not added_token["single_word"]
    return is_found_in_text and not all(is_punctuation(character) for character in edges)


def _word_ids(encoding: Encoding) -> list[int]:
    """The word of each token; -1 where the tokenizer knows of none."""
    word_ids: list[int | None] = encoding.word_ids
    if None in word_ids:
        return [-1 if word is None else word for word in word_ids]
    return cast(list[int], word_ids)
