"""The laws that an extended tokenizer obeys on a corpus, and the entries that break them.

First each distinct word of the corpus is compared, by the models alone, which tells which new word
is to blame. Then the texts are, as the tokenizer that a user loads reads them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mlmtune.errors import ConfigError
from mlmtune.tokens.ideographs import IDEOGRAPHS, is_several, parts
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.vocabulary.content import entries_by_id
from mlmtune.vocabulary.plan import Plan, Reason
from mlmtune.vocabulary.terms import Terms

LONGEST_EXCERPT = 60
"""The number of characters of a text that an error shows."""

_BETWEEN_IDEOGRAPHS = re.compile(f"(?<=[{IDEOGRAPHS}]) (?=[{IDEOGRAPHS}])")


class Vocabulary:
    """A tokenizer.json, and what its model does.

    Attributes:
        content: The tokenizer.json.
        names: The entry of each id, added tokens included.
        ids: The id of each entry.
        terms: How texts are cut into words.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.names = entries_by_id(content)
        self.ids = {name: id_ for id_, name in self.names.items()}
        backend = Tokenizer.from_str(json.dumps(content))
        self.terms = Terms(backend, parts_ideographs=parts(content))
        self._model = backend.model

    def pieces(self, word: str) -> tuple[str, ...]:
        """Return the entries that a word consists of.

        Args:
            word: A word of the pre-tokenizer, or one of several ideographs that it may part.
        """
        cuts = self.terms.parts_ideographs and is_several(word)
        parts = self.terms.cut(word) if cuts else [word]
        return tuple(self.names[token.id] for part in parts for token in self._model.tokenize(part))


def offences_of_words(
    plan: Plan, after: Vocabulary, corpus: Mapping[str, tuple[str, ...]]
) -> dict[str, Reason]:
    """Return the new entries that break a law for a word of the corpus, or cannot be reached.

    Args:
        plan: What was added.
        after: The vocabulary with it.
        corpus: The distinct words of the corpus, and the pieces that they had.
    """
    offences = {word: Reason.UNREACHABLE for word in plan.words if after.pieces(word) != (word,)}
    words, steps = set(plan.words), set(plan.steps)
    for text, old in corpus.items():
        new = after.pieces(text)
        if new == old:
            continue
        if len(new) > len(old):
            offences |= dict.fromkeys(words.intersection(new), Reason.LONGER)
        offences |= dict.fromkeys(steps.intersection(new), Reason.CHANGED)
    return offences


def offences_of_texts(
    tokenizer: PreTrainedTokenizerFast,
    extended: PreTrainedTokenizerFast,
    plan: Plan,
    before: Vocabulary,
    texts: Sequence[str],
) -> dict[str, Reason]:
    """Return the new words that break a law for a text, as a user's tokenizer reads it.

    Raises:
        ConfigError: A text changes that has no new word.
    """
    offences: dict[str, Reason] = {}
    words, unknown = set(plan.words), unknown_token_id(tokenizer)
    old_backend, new_backend = _without_limits(tokenizer), _without_limits(extended)
    new_ids = new_backend.get_vocab()

    def decodes_alike(word: str) -> bool:
        pieces = [before.ids[piece] for piece in before.pieces(word)]
        # After another token, whichever it is, because the first one is decoded without a space.
        return _decoded(new_backend, [0, new_ids[word]]) == _decoded(old_backend, [0, *pieces])

    for text, old, new in zip(
        texts, _ids_of(old_backend, texts), _ids_of(new_backend, texts), strict=True
    ):
        if new == old:
            continue
        in_text = words & {new_backend.id_to_token(id_) for id_ in new}
        if not in_text:
            raise ConfigError(
                f"{tokenizer.name_or_path}: a saved copy of its tokenizer does not read "
                f"{_excerpt(text)} as it does, so its vocabulary cannot be extended; remove "
                "vocabulary"
            )
        if len(new) > len(old):
            offences |= dict.fromkeys(in_text, Reason.LONGER)
        elif unknown not in old and _decoded(new_backend, new) != _decoded(old_backend, old):
            changed = {word for word in in_text if not decodes_alike(word)}
            offences |= dict.fromkeys(changed or in_text, Reason.DECODING)
    return offences


def _without_limits(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def _ids_of(backend: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return (encoding.ids for encoding in encodings)


def _decoded(backend: Tokenizer, ids: list[int]) -> str:
    """Decode ids, without the spaces that BERT's decoder puts between ideographs."""
    return _BETWEEN_IDEOGRAPHS.sub("", backend.decode(ids, skip_special_tokens=False))


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}...")
