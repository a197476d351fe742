"""The ids for new entries, and a tokenizer.json that has them."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from mlmtune.errors import ConfigError
from mlmtune.tokens.ideographs import is_several, parts, with_joined_words
from mlmtune.tokens.steps import normalizers, pre_tokenizers
from mlmtune.vocabulary.byte_bpe import plan_byte_bpe
from mlmtune.vocabulary.plan import Plan
from mlmtune.vocabulary.unigram import plan_unigram
from mlmtune.vocabulary.word_piece import plan_word_piece

PLANNERS = {"WordPiece": plan_word_piece, "BPE": plan_byte_bpe, "Unigram": plan_unigram}
"""The function that plans new words, for each kind of tokenizer model."""

UNUSED_ENTRY = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
"""Entries that are reserved for new words: of BERT and ModernBERT, Gemma, and RoBERTa."""


def check_kind(content: Mapping[str, Any], name: str) -> None:
    """Refuse a tokenizer whose vocabulary cannot be extended.

    Args:
        content: The tokenizer.json.
        name: The name of the model.

    Raises:
        ConfigError: It is of another kind than WordPiece, byte-level BPE and Unigram.
    """
    model = content["model"]
    kind = model["type"]
    if kind == "BPE":
        steps = [*normalizers(content), *pre_tokenizers(content)]
        if not any(step["type"] == "ByteLevel" for step in steps):
            kind = "BPE that is not byte-level"
        elif model.get("dropout"):
            kind = "BPE with dropout"
        elif model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
            kind = "BPE with marks inside words"
    if kind not in PLANNERS:
        raise ConfigError(
            f"{name}: its tokenizer is of the kind {kind}, to which no words can be added; choose "
            "a model with WordPiece, byte-level BPE or Unigram, or remove vocabulary"
        )


def entries_by_id(content: Mapping[str, Any]) -> dict[int, str]:
    """Return the name of each id; added tokens included."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram
        names = dict(enumerate(name for name, _ in vocabulary))
    else:
        names = {id_: name for name, id_ in vocabulary.items()}
    return names | {token["id"]: token["content"] for token in content["added_tokens"]}


def free_ids(content: Mapping[str, Any], texts: Iterable[str]) -> Iterator[int]:
    """Yield the ids for new entries without end: unused entries, gaps, and then new ids.

    Args:
        content: The tokenizer.json.
        texts: Texts; an unused entry that one of them spells is not taken.
    """
    names = entries_by_id(content)
    spelled = {name for text in texts for name in UNUSED_ENTRY.findall(text)}
    for id_ in range(max(names)):
        name = names.get(id_)
        if name is None or (UNUSED_ENTRY.fullmatch(name) and name not in spelled):
            yield id_
    yield from count(max(names) + 1)


def with_entries(content: Mapping[str, Any], plan: Plan, free: Iterator[int]) -> dict[str, Any]:
    """Return a tokenizer.json with what a plan adds.

    Args:
        content: The tokenizer.json.
        plan: The plan.
        free: The ids to take, as `free_ids` yields them.
    """
    extended = copy.deepcopy(dict(content))
    model = extended["model"]
    entries = [*plan.words, *plan.steps]
    new = dict(zip(islice(free, len(entries)), entries, strict=True))
    added = [token for token in content["added_tokens"] if token["id"] not in new]
    extended["added_tokens"] = added
    # Where the vocabulary grows, tokenizers would give other ids to added tokens that are not in
    # it, because it counts on from the size of the vocabulary.
    names = {token["id"]: token["content"] for token in added} if new else {}
    if isinstance(model["vocab"], list):
        model["vocab"] = _scored(model["vocab"], names, new, plan.scores)
        return extended
    kept = {id_: name for name, id_ in model["vocab"].items() if id_ not in new}
    model["vocab"] = {name: id_ for id_, name in (names | kept | new).items()}
    if plan.looks_up:
        model["ignore_merges"] = True
    if plan.merges:
        model["merges"] = [*model["merges"], *map(list, plan.merges)]
    joined = list(filter(is_several, plan.words))
    return with_joined_words(extended, joined) if joined and parts(content) else extended


def _scored(
    vocabulary: Sequence[Sequence[Any]],
    names: Mapping[int, str],
    new: Mapping[int, str],
    scores: Mapping[str, float],
) -> list[list[Any]]:
    """Return the entries of Unigram, whose ids are their positions."""
    least = min(score for _, score in vocabulary)
    by_id = {id_: [name, least] for id_, name in names.items()}
    by_id |= {id_: list(entry) for id_, entry in enumerate(vocabulary)}
    by_id |= {id_: [name, scores[name]] for id_, name in new.items()}
    # An id without a name becomes an unused entry.
    return [by_id.get(id_, [f"<unused{id_}>", least]) for id_ in range(max(by_id) + 1)]
