"""A tokenizer whose vocabulary has the domain's own words.

Each word becomes an entry of the tokenizer's model. It is no added token: those are found before
a text is cut into words, inside other words, and they make the tokenizer slower. A corpus of texts
is tokenized before and after, and a word that breaks one of these laws is dropped:

- no text gets more tokens;
- a text without the new words has the tokens that it had;
- decoding gives what it gave.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlmtune.errors import ConfigError
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.vocabulary.content import (
    PLANNERS,
    check_kind,
    entries_by_id,
    free_ids,
    with_entries,
)
from mlmtune.vocabulary.plan import Plan, Reason, Request
from mlmtune.vocabulary.terms import Terms

MULTIPLE = 64
"""Embeddings that grow get a multiple of so many rows, for which GPUs have fast kernels."""

LONGEST_EXCERPT = 60
"""The number of characters of a text that an error shows."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""The files of a saved tokenizer that do not hold the vocabulary a second time."""


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer, and what was added to it.

    Attributes:
        tokenizer: The extended tokenizer, as `AutoTokenizer` loads it from its saved folder.
        ids: The id of each added word, as the user wrote it, in the given order.
        pieces: For each new id, the ids of the tokens that its text had before. Besides those of
            words, these are the steps that BPE needs.
        dropped: Why the other words were not added.
    """

    tokenizer: PreTrainedTokenizerFast
    ids: dict[str, int]
    pieces: dict[int, tuple[int, ...]]
    dropped: dict[str, Reason]

    def num_rows(self, now: int) -> int:
        """Return the number of rows that the embeddings of a model need.

        Args:
            now: The number that they have; if that suffices, it stays.
        """
        needed = max(self.tokenizer.get_vocab().values()) + 1
        return now if needed <= now else -(-needed // MULTIPLE) * MULTIPLE


def extend(
    tokenizer: PreTrainedTokenizerFast, words: Iterable[str], texts: Iterable[str]
) -> Extension:
    """Add words to the vocabulary of a tokenizer, which itself stays as it is.

    Args:
        tokenizer: The tokenizer.
        words: The words as they are written in texts, most useful first.
        texts: A sample of the corpus, which is kept in memory; the laws are checked on it.

    Raises:
        ConfigError: The tokenizer is of a kind to which no words can be added, or a saved copy of
            it does not read texts as it does.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    check_kind(content, tokenizer.name_or_path)
    before, texts = _Vocabulary(content), list(texts)
    written, dropped = _entries(words, before)
    corpus = {word: before.pieces(word) for word in before.terms.cut_all(texts)}
    request = Request(
        content,
        before.pieces,
        words=list(written),
        pieces=list(corpus.values()),
        looks_up=_can_look_up(tokenizer, content, before),
    )
    while True:
        plan = PLANNERS[content["model"]["type"]](request)
        after = _Vocabulary(with_entries(content, plan, free_ids(content, texts)))
        offences = _offences(plan, after, corpus)
        if not offences:
            extended = _load(tokenizer, after.content)
            offences = _offences_of_texts(tokenizer, extended, plan, texts)
        if not offences:
            break
        request = request.without(offences)
        dropped |= {written[entry]: why for entry, why in offences.items() if entry in written}
    dropped |= {written[entry]: reason for entry, reason in plan.dropped.items()}
    old_pieces = {word: before.pieces(word) for word in plan.words} | {**plan.steps}
    return Extension(
        tokenizer=extended,
        ids={written[entry]: after.ids[entry] for entry in plan.words},
        pieces={
            after.ids[entry]: tuple(before.ids[piece] for piece in pieces)
            for entry, pieces in old_pieces.items()
        },
        dropped=dropped,
    )


class _Vocabulary:
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
        self.terms = Terms(backend)
        self._model = backend.model

    def pieces(self, word: str) -> tuple[str, ...]:
        """Return the entries that a word of the pre-tokenizer consists of."""
        return tuple(self.names[token.id] for token in self._model.tokenize(word))


def _entries(
    words: Iterable[str], vocabulary: _Vocabulary
) -> tuple[dict[str, str], dict[str, Reason]]:
    """Return the word that each new entry stands for, and why other words have none."""
    written: dict[str, str] = {}
    dropped: dict[str, Reason] = {}
    for word in dict.fromkeys(words):
        entry = vocabulary.terms.entry(word)
        if isinstance(entry, Reason):
            dropped[word] = entry
        elif entry in vocabulary.ids:
            dropped[word] = Reason.KNOWN
        elif entry in written:
            dropped[word] = Reason.REPEATED
        else:
            written[entry] = word
    return written, dropped


def _can_look_up(
    tokenizer: PreTrainedTokenizerFast, content: Mapping[str, Any], vocabulary: _Vocabulary
) -> bool:
    """Whether the tokenizer may look up whole words before it merges, and its class keeps that.

    It may not if the vocabulary has whole words that no merges make, because texts would get them.
    """
    model = content["model"]
    if model["type"] != "BPE":
        return False
    for entry in model["vocab"]:
        if vocabulary.pieces(entry) != (entry,):
            text = decoders.ByteLevel().decode([entry])
            if entry in vocabulary.terms.cut(text):
                return False
    with_look_up = {**content, "model": {**model, "ignore_merges": True}}
    return bool(_load(tokenizer, with_look_up).backend_tokenizer.model.ignore_merges)


def _offences(
    plan: Plan, after: _Vocabulary, corpus: Mapping[str, tuple[str, ...]]
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


def _offences_of_texts(
    tokenizer: PreTrainedTokenizerFast,
    extended: PreTrainedTokenizerFast,
    plan: Plan,
    texts: Sequence[str],
) -> dict[str, Reason]:
    """Return the new words that break a law for a text, as a user's tokenizer reads it.

    Raises:
        ConfigError: A text changes that has no new word.
    """
    offences: dict[str, Reason] = {}
    words, unknown = set(plan.words), unknown_token_id(tokenizer)
    old_backend, new_backend = _without_limits(tokenizer), _without_limits(extended)
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
            offences |= dict.fromkeys(in_text, Reason.DECODING)
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
    return backend.decode(ids, skip_special_tokens=False)


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= LONGEST_EXCERPT else f"{text[:LONGEST_EXCERPT]}...")


def _load(tokenizer: PreTrainedTokenizerFast, content: Mapping[str, Any]) -> Any:
    """Load a tokenizer with another tokenizer.json as a user will.

    Several classes build themselves from the vocabulary and the merges of that file and ignore the
    rest of it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in TOKENIZER_FILES:
                file.unlink()
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        settings_file = folder / "tokenizer_config.json"
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        _forget_tokens(settings, {token["content"] for token in content["added_tokens"]})
        settings_file.write_text(json.dumps(settings), encoding="utf-8")
        extended = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    extended.name_or_path = tokenizer.name_or_path
    return extended


def _forget_tokens(settings: dict[str, Any], added: set[str]) -> None:
    """Remove the added tokens from a tokenizer_config.json that are not added any more."""
    for key in ("extra_special_tokens", "additional_special_tokens"):
        if isinstance(settings.get(key), list):
            settings[key] = [token for token in settings[key] if _content(token) in added]
    if "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] = {
            id_: token
            for id_, token in settings["added_tokens_decoder"].items()
            if _content(token) in added
        }


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
