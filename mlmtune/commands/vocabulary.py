"""`mlmtune vocabulary`: show which words of a text would pay as entries of the vocabulary."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.corpus.export import check_folder
from mlmtune.errors import ResourceError
from mlmtune.files import file_of_user, write_text
from mlmtune.modeling.locating import locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.printable import counted
from mlmtune.tables import table
from mlmtune.tokens.encoding import Encoder, plain_backend
from mlmtune.training.added_words import (
    CountedText,
    count_text,
    describe,
    sample_of,
    words_to_add,
)
from mlmtune.training.preparation import find_corpus, text_needs
from mlmtune.vocabulary.choosing import bend, tokens_saved
from mlmtune.vocabulary.counting import CountedWord
from mlmtune.vocabulary.extension import Extension, extend

SHOWN_WORDS = 20
SHOWN_SENTENCES = 5
SENTENCE_CHARACTERS = (40, 160)
"""The shortest and the longest sentence that is shown."""

SENTENCE_ENDS = ".!?\u3002\uff01\uff1f"

MOST_UNSPACED = 0.1
"""The share of tokens in scripts without spaces beyond which a segmenter is suggested."""

GRID = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
"""The numbers of words of the curve."""


@dataclass(frozen=True)
class Effect:
    """What an extended tokenizer makes of a sample of the text.

    Attributes:
        before: (S,) The tokens of each text of the sample.
        after: (S,) Those of the extended tokenizer.
        sentences: Sentences in their tokens before and after.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    sentences: list[tuple[list[str], list[str]]]

    @property
    def share(self) -> float:
        """The tokens after, as a share of those before."""
        return float(self.after.sum() / self.before.sum())


def show_vocabulary(
    config: Config, console: Console, *, as_json: bool, export_to: Path | None, refresh: bool
) -> None:
    """Print the words that would pay, and what adding them changes.

    Args:
        config: The config. Without a section `vocabulary`, as many words are added as the curve of
            tokens saved suggests.
        console: Shows the progress; prints the result.
        as_json: Whether to print JSON.
        export_to: A file for the words that are added, one per line.
        refresh: Whether to look up again where branches of git repositories are.

    Raises:
        MlmtuneError: The text or the tokenizer cannot be read, or no words can be added.
    """
    if export_to is not None:
        check_folder(export_to)
    needs = text_needs(config)
    text = find_corpus(config, console, is_needed=True, refresh=refresh)
    folder = locate_model(config.model.name_or_path, config.model.revision)
    tokenizer = load_tokenizer(folder)
    counted_text = count_text(config, text, needs, tokenizer)
    words, number = words_to_add(config, lambda: counted_text.candidates)
    sample = sample_of(text)
    extension = extend(tokenizer, words, sample, number)
    effect = _effect(tokenizer, extension, sample)
    if as_json:
        console.result(json.dumps(_record(counted_text, extension, effect), ensure_ascii=False))
    else:
        for line in _report(config, counted_text, extension, effect):
            console.result(line)
    if export_to is not None:
        try:
            with file_of_user(export_to) as file:
                write_text(file, "".join(f"{word}\n" for word in extension.ids))
        except OSError as error:
            reason = error.strerror
            raise ResourceError(f"--export {export_to}: cannot be written ({reason})") from error
        console.say(f"wrote {counted(len(extension.ids), 'word')} to {export_to}")


def _effect(
    tokenizer: PreTrainedTokenizerFast, extension: Extension, sample: Sequence[str]
) -> Effect:
    before, after = (Encoder(plain_backend(t)) for t in (tokenizer, extension.tokenizer))
    lengths = [encode(list(sample))[2] for encode in (before, after)]
    telling = _telling(sample, lengths[0] - lengths[1], before, after)
    tokens = [
        (tokenizer.tokenize(sentence), extension.tokenizer.tokenize(sentence))
        for sentence in islice(telling, SHOWN_SENTENCES)
    ]
    return Effect(lengths[0], lengths[1], tokens)


def _telling(
    sample: Sequence[str], saved: NDArray[np.int64], before: Encoder, after: Encoder
) -> Iterator[str]:
    """Yield the sentence that saves most, from each of the texts that save most, in this order."""
    least, most = SENTENCE_CHARACTERS
    for number in np.argsort(-saved, kind="stable").tolist():
        lines = [line for line in sample[number].splitlines() if least <= len(line) <= most]
        lines = [line for line in lines if line[-1] in SENTENCE_ENDS]
        if lines:
            yield lines[int(np.argmax(before(lines)[2] - after(lines)[2]))]


def _report(
    config: Config, text: CountedText, extension: Extension, effect: Effect
) -> Iterator[str]:
    counts, found = text.counts, text.candidates
    yield (
        f"{counted(counts.num_documents, 'training document')}: {counted(counts.num_words, 'word')}"
        f" in {counted(counts.num_tokens, 'token')}, {counts.num_tokens / counts.num_words:.3f} "
        "per word"
    )
    needs_segmenter = config.tokenization.word_segmenter is None
    about_general = "" if text.splits.general is None else ", more often than in general text"
    yield (
        f"{counted(len(found), 'word')} of letters that the tokenizer cuts occur in "
        f"{config.vocabulary.min_documents} documents or more{about_general}"
    )
    if counts.num_unspaced > MOST_UNSPACED * counts.num_tokens and needs_segmenter:
        yield (
            f"{counts.num_unspaced / counts.num_tokens:.0%} of the tokens are of scripts without "
            "spaces, in which only a segmenter finds words; for Chinese set "
            "tokenization.word_segmenter: rjieba"
        )
    yield ""
    yield from table(list(_words_table(found[:SHOWN_WORDS])), left=(0, 3))
    yield ""
    yield from table(list(_curve(text)))
    if found:
        yield f"the curve bends at {counted(bend(tokens_saved(found)), 'word')}"
    yield ""
    yield from describe(extension)
    yield from _before_and_after(text, effect)
    for old, new in effect.sentences:
        yield ""
        yield f"before ({len(old)}): {' '.join(old)}"
        yield f"after ({len(new)}):  {' '.join(new)}"


def _words_table(words: Sequence[CountedWord]) -> Iterator[list[str]]:
    yield ["word", "occurrences", "documents", "its tokens now", "tokens saved"]
    for word in words:
        yield [
            word.word,
            f"{word.occurrences:,}",
            f"{word.documents:,}",
            " ".join(word.pieces),
            f"{word.tokens_saved:,}",
        ]


def _curve(text: CountedText) -> Iterator[list[str]]:
    num_tokens, saved = text.counts.num_tokens, tokens_saved(text.candidates)
    yield ["words added", "tokens saved", "share of all", "tokens per word"]
    for number in [*(n for n in GRID if n < len(saved)), len(saved)]:
        fewer = int(saved[number - 1]) if number else 0
        yield [
            f"{number:,}",
            f"{fewer:,}",
            f"{fewer / num_tokens:.1%}",
            f"{(num_tokens - fewer) / text.counts.num_words:.3f}",
        ]


def _before_and_after(text: CountedText, effect: Effect) -> Iterator[str]:
    per_word = text.counts.num_tokens / text.counts.num_words
    chunks = len(text.splits.train)
    yield (
        f"tokens per word: {per_word:.3f} before, {per_word * effect.share:.3f} after "
        f"({1 - effect.share:.1%} fewer tokens, on {counted(len(effect.before), 'document')})"
    )
    yield (f"chunks per epoch: {chunks:,} before, about {round(chunks * effect.share):,} after")


def _record(text: CountedText, extension: Extension, effect: Effect) -> dict[str, Any]:
    counts, found = text.counts, text.candidates
    return {
        "num_documents": counts.num_documents,
        "num_words": counts.num_words,
        "num_tokens": counts.num_tokens,
        "candidates": [{**vars(word), "tokens_saved": word.tokens_saved} for word in found],
        "bend": bend(tokens_saved(found)) if found else 0,
        "added": extension.ids,
        "dropped": extension.dropped,
        "sample": {
            "documents": len(effect.before),
            "tokens_before": int(effect.before.sum()),
            "tokens_after": int(effect.after.sum()),
        },
        "chunks_per_epoch": len(text.splits.train),
        "sentences": [{"before": old, "after": new} for old, new in effect.sentences],
    }
