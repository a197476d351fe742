"""The words that a config adds to its tokenizer, chosen by the training text or by the user."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmtune.config import Config, StrategyName
from mlmtune.console import Console
from mlmtune.corpus.text import CorpusText
from mlmtune.errors import ConfigError, DataError, explaining_failures
from mlmtune.files import read_json, write_json
from mlmtune.integrity import digest
from mlmtune.locations import expand_home
from mlmtune.printable import counted
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.splits import Splits, TextNeeds, open_splits
from mlmtune.tokens.store import TokenStore
from mlmtune.vocabulary.choosing import bend, candidates, tokens_saved
from mlmtune.vocabulary.counting import CountedWord, WordCounts, count_words
from mlmtune.vocabulary.extension import Extension, extend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEPT_FILE = "vocabulary.json"
"""The file of an extension in the folder of a store."""

SAMPLE_CHARACTERS = 8_000_000
"""How much text the extended tokenizer is checked on."""

_SHOWN = 5
"""How many words of a kind a line names."""


@dataclass(frozen=True)
class CountedText:
    """A text in the tokens of the base model, and its words.

    Attributes:
        counts: All words of the training text that are cut into pieces.
        candidates: Those that may be added, those that save most tokens first.
    """

    store: TokenStore
    splits: Splits
    counts: WordCounts
    candidates: list[CountedWord]


def count_text(
    config: Config, text: CorpusText, needs: TextNeeds, tokenizer: "PreTrainedTokenizerFast"
) -> CountedText:
    """Count the words of the training text of a config, in the tokens of its base model.

    Raises:
        MlmtuneError: The text cannot be read; see `open_splits`.
    """
    strategies: dict[str, StrategyName] = {}
    if needs.word_segmenter is not None:
        strategies["vocabulary"] = "whole_word"  # so that words are marked
    needs = replace(needs, objective="mlm", phases=(), word_strategies=strategies)
    # Its remarks follow when the text is opened in the tokens that are trained on. The named store
    # is for these.
    quiet = Console(is_quiet=not text.console.shows_bars, shows_lines=False)
    base = replace(text, console=quiet, store=None)
    store, splits = open_splits(base, needs, config.chunking, tokenizer)
    counts = count_words(store, np.sort(splits.train.layout.documents), tokenizer)
    general = None
    if splits.general is not None:
        of_general = splits.general.layout.documents
        general = count_words(splits.general.store, np.sort(of_general), tokenizer)
    found = candidates(counts, config.vocabulary.min_documents, general)
    return CountedText(store, splits, counts, found)


def extension_of(
    config: Config, text: CorpusText, needs: TextNeeds, tokenizer: "PreTrainedTokenizerFast"
) -> Extension | None:
    """Extend the tokenizer of a config as its section `vocabulary` says; None without one.

    Where only the store of the text is, the extension is the one that `keep` has put into it.

    Raises:
        ConfigError: The words cannot be read, none of them can be added, or the store has others.
        DataError: The text has too few words.
    """
    settings = config.vocabulary
    if not settings.is_used:
        return None
    if text.listing is None:
        assert text.store is not None  # text without a store must be reachable
        return _kept(config, text.store, tokenizer)
    words, number = words_to_add(
        config, lambda: count_text(config, text, needs, tokenizer).candidates
    )
    extension = extend(tokenizer, words, sample_of(text), number)
    for line in describe(extension):
        text.console.say(line)
    if not extension.ids:
        raise ConfigError(
            f"vocabulary: none of the {counted(len(words), 'word')} can be added; choose others, "
            "or remove the section"
        )
    return extension


def keep(
    extension: Extension, config: Config, store: Path, tokenizer: "PreTrainedTokenizerFast"
) -> None:
    """Put an extension into the folder of its store, for machines that have no more than that.

    Args:
        extension: The extension.
        config: The config that has chosen its words.
        store: The folder of the store.
        tokenizer: The tokenizer of the base model.

    Raises:
        ResourceError: The folder cannot be written.
    """
    made_of = _made_of(config, tokenizer)
    with explaining_failures(store, "tokenization.store"):
        write_json(store / KEPT_FILE, {"made_of": made_of, **extension.to_json()})


def _kept(config: Config, store: Path, tokenizer: "PreTrainedTokenizerFast") -> Extension:
    kept = read_json(store / KEPT_FILE)
    if kept is None or kept["made_of"] != _made_of(config, tokenizer):
        why = "has no added words" if kept is None else "has the words of another config or model"
        raise ConfigError(
            f"tokenization.store: {store} {why}, and words are chosen by the text, which is not "
            "here; run `mlmtune prepare` with this config where the text is, and copy the store"
        )
    return Extension.from_json(tokenizer, kept)


def _made_of(config: Config, tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    chosen_by = config.vocabulary.model_dump(exclude={"init"})
    return {**chosen_by, "tokenizer": digest(plain_backend(tokenizer).to_str().encode())}


def words_to_add(
    config: Config, candidates_of_text: Callable[[], list[CountedWord]]
) -> tuple[list[str], int | None]:
    """Return the words that `vocabulary` may add, most useful first, and how many of them.

    Args:
        config: The config. Without a number or a file, as many words are added as the curve of
            tokens saved suggests.
        candidates_of_text: Returns the words that may be added, those that save most tokens first.

    Returns:
        The words, and how many of them to add; None for all.

    Raises:
        ConfigError: The file of the words cannot be read.
        DataError: The text has fewer words.
    """
    settings = config.vocabulary
    if settings.words is not None:
        return read_words(settings.words), None
    number, least, found = settings.add, settings.min_documents, candidates_of_text()
    if not found:
        raise DataError(
            f"the tokenizer of {config.model.name_or_path} cuts no word of letters that is in "
            f"{least} training documents or more (vocabulary.min_documents), so no word can be "
            "added"
        )
    if number is not None and len(found) < number:
        raise DataError(
            f"vocabulary.add is {number:,}, but only {counted(len(found), 'word')} of letters that "
            f"the tokenizer cuts are in {least} training documents or more "
            f"(vocabulary.min_documents); set vocabulary.add to {len(found)} or less"
        )
    return [word.word for word in found], number or bend(tokens_saved(found))


def read_words(path: str) -> list[str]:
    """Return the words of a file with a word per line, without empty lines.

    Raises:
        ConfigError: It is not a file of UTF-8 text, or has no words.
    """
    file = expand_home(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, ValueError) else error.strerror
        raise ConfigError(
            f"vocabulary.words: {path}: {reason}; give a text file with a word per line"
        ) from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise ConfigError(f"vocabulary.words: {path} has no words; write a word per line")
    for number, line in enumerate(lines, 1):
        if len(line.split()) > 1:
            raise ConfigError(
                f"vocabulary.words: {path}, line {number}: {line.strip()!r} has white space, and "
                "an entry of the vocabulary is a single word; write a word per line"
            )
    return words


def sample_of(text: CorpusText) -> list[str]:
    """Return documents from all of a text, about `SAMPLE_CHARACTERS` of it."""
    corpus = text.read()
    every = 1 + int(corpus.table.num_characters.sum() // SAMPLE_CHARACTERS)
    numbers = np.arange(0, len(corpus.table.kept()), every)
    return [document.text for document in corpus.some_documents(numbers)]


def describe(extension: Extension) -> Iterator[str]:
    """Yield what became of the words, in lines for the user."""
    steps = len(extension.pieces) - len(extension.ids)
    more = f", and {counted(steps, 'entry', 'entries')} on the way to them" if steps else ""
    yield f"vocabulary: {counted(len(extension.ids), 'word')} added{more}"
    for reason, number in Counter(extension.dropped.values()).most_common():
        words = [word for word, why in extension.dropped.items() if why == reason]
        shown = ", ".join(words[:_SHOWN]) + (", ..." if number > _SHOWN else "")
        each = "it" if number == 1 else "each"
        yield f"vocabulary: {counted(number, 'word')} not added, because {each} {reason} ({shown})"
