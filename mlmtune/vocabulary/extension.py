"""A tokenizer whose vocabulary has the domain's own words.

Each word becomes an entry of the tokenizer's model. It is no added token: those are found before
a text is cut into words, inside other words, and they make the tokenizer slower. A corpus of texts
is tokenized before and after, and a word that breaks one of these laws is dropped:

- no text gets more tokens;
- a text without the new words has the tokens that it had;
- decoding gives what it gave.

Some classes of transformers build a tokenizer anew from its vocabulary, and forget other parts of
its file. If an extended tokenizer needs such a part, it is saved as one of the general class, which
keeps the file.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import decoders
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlmtune.vocabulary.content import PLANNERS, check_kind, free_ids, with_entries
from mlmtune.vocabulary.laws import Vocabulary, offences_of_texts, offences_of_words
from mlmtune.vocabulary.plan import Reason, Request

MULTIPLE = 64
"""Embeddings that grow get a multiple of so many rows, for which GPUs have fast kernels."""

GENERAL_CLASS = "PreTrainedTokenizerFast"
"""The class of a tokenizer that is as its tokenizer.json says, by a name that transformers 4 has,
too."""

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
        dropped: Why other words that were tried were not added.
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

    def to_json(self) -> dict[str, Any]:
        """Return the extension as JSON values, besides the files of its base."""
        return {
            "tokenizer": json.loads(self.tokenizer.backend_tokenizer.to_str()),
            "ids": self.ids,
            "pieces": [[id_, *pieces] for id_, pieces in self.pieces.items()],
            "dropped": self.dropped,
        }

    @classmethod
    def from_json(cls, tokenizer: PreTrainedTokenizerFast, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` returned for an extension of a tokenizer."""
        return cls(
            tokenizer=_load(tokenizer, values["tokenizer"]),
            ids=values["ids"],
            pieces={id_: tuple(pieces) for id_, *pieces in values["pieces"]},
            dropped={word: Reason(reason) for word, reason in values["dropped"].items()},
        )


def extend(
    tokenizer: PreTrainedTokenizerFast,
    words: Iterable[str],
    texts: Iterable[str],
    number: int | None = None,
) -> Extension:
    """Add words to the vocabulary of a tokenizer, which itself stays as it is.

    Args:
        tokenizer: The tokenizer.
        words: The words as they are written in texts, most useful first.
        texts: A sample of the corpus, which is kept in memory; the laws are checked on it.
        number: How many words to add; a word that breaks a law makes room for the next one. None
            for all.

    Raises:
        ConfigError: The tokenizer is of a kind to which no words can be added, or a saved copy of
            it does not read texts as it does.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    check_kind(content, tokenizer.name_or_path)
    before, texts = Vocabulary(content), list(texts)
    written, dropped = _entries(words, before)
    corpus = {word: before.pieces(word) for word in before.terms.cut_all(texts)}
    request = Request(
        content,
        before.pieces,
        words=[*written][:number],
        pieces=list(corpus.values()),
        looks_up=_may_look_up(content, before),
    )
    refused: dict[str, Reason] = {}
    while True:
        plan = PLANNERS[content["model"]["type"]](request)
        after = Vocabulary(with_entries(content, plan, free_ids(content, texts)))
        offences = {**plan.dropped, **offences_of_words(plan, after, corpus)}
        if not offences:
            extended = _load(tokenizer, after.content)
            offences = offences_of_texts(tokenizer, extended, plan, before, texts)
        if not offences:
            break
        refused |= offences
        request = request.without(offences, [w for w in written if w not in refused][:number])
    dropped |= {written[entry]: why for entry, why in refused.items() if entry in written}
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


def _entries(
    words: Iterable[str], vocabulary: Vocabulary
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


def _may_look_up(content: Mapping[str, Any], vocabulary: Vocabulary) -> bool:
    """Whether a tokenizer may look up whole words before it merges.

    It may not if the vocabulary has whole words that no merges make, because texts would get them.
    """
    if content["model"]["type"] != "BPE":
        return False
    for entry in content["model"]["vocab"]:
        if vocabulary.pieces(entry) != (entry,):
            text = decoders.ByteLevel().decode([entry])
            if entry in vocabulary.terms.cut(text):
                return False
    return True


def _load(tokenizer: PreTrainedTokenizerFast, content: Mapping[str, Any]) -> Any:
    """Load a tokenizer with another tokenizer.json as a user will."""
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
        if not _has(extended, content):
            settings["tokenizer_class"] = GENERAL_CLASS
            settings["model_input_names"] = tokenizer.model_input_names
            settings_file.write_text(json.dumps(settings), encoding="utf-8")
            extended = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    extended.name_or_path = tokenizer.name_or_path
    return extended


def _has(tokenizer: Any, content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer reads texts as a tokenizer.json says."""
    kept = json.loads(tokenizer.backend_tokenizer.to_str())
    return all(kept[part] == content[part] for part in ("normalizer", "pre_tokenizer", "model"))


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
