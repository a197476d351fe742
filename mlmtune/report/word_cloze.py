"""Models with different tokenizers compared by the same words, which each predicts as a whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from mlmtune.config import Config, ModelConfig
from mlmtune.errors import DataError
from mlmtune.evaluation.bootstrap import resampled, sums_by_unit
from mlmtune.evaluation.cloze_words import DrawnWord, draw_words, drawn_documents
from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.word_cloze import ClozeText, WordCloze, WordCutter, WordScores
from mlmtune.modeling.locating import MODEL_KEY, locate_model
from mlmtune.modeling.tokenizer import load_tokenizer
from mlmtune.report.findings import (
    Estimate,
    WordFindings,
    WordLosses,
    WordMeasurement,
    WordSample,
)
from mlmtune.tokens.encoding import plain_backend
from mlmtune.tokens.opening import find_text
from mlmtune.training.caveats import FEWEST_DOCUMENTS
from mlmtune.training.setup import ModelAndText

ALL_WORDS, CUT_DIFFERENTLY, CUT_ALIKE = "all words", "words cut differently", "words cut alike"

TextKind = Literal["domain", "general"]


class Clozes:
    """The word cloze of the texts of a config, added model by model.

    Args:
        tokenizers: Those that differ; with fewer than two, nothing is measured.

    Attributes:
        why_not: Why a text is not measured, in a sentence; empty if all are.
    """

    def __init__(self, tokenizers: Sequence[PreTrainedTokenizerFast]) -> None:
        self.why_not: list[str] = []
        self._tokenizers = tokenizers
        self._texts: dict[TextKind, ClozeText] | None = None
        self._scores: dict[tuple[TextKind, str], WordScores] = {}

    def add(
        self,
        name: str,
        setup: ModelAndText,
        config: Config,
        score: Callable[[WordCloze], WordScores],
    ) -> None:
        """Ask a model for the words of each text by a function, if tokenizers differ."""
        if len(self._tokenizers) < 2:
            return
        if self._texts is None:
            self._texts = dict(self._drawn(setup, config))
        for kind, text in self._texts.items():
            self._scores[kind, name] = score(WordCloze(text, setup.loaded, setup.head))

    def add_frequencies(self, name: str, frequencies: TokenFrequencies, model: str) -> None:
        """Ask token frequencies alone, in the pieces of a model that was asked before."""
        for kind in self._texts or {}:
            self._scores[kind, name] = frequencies.score_words(self._scores[kind, model])

    def findings(self, kind: TextKind, bases: Mapping[str, str | None]) -> WordFindings | None:
        """Compare each model with its base, by name; None if nothing was measured.

        Args:
            kind: The text.
            bases: The name of what each model is compared with; None for a base.
        """
        text = (self._texts or {}).get(kind)
        if text is None:
            return None
        return compare_words(text, {name: self._scores[kind, name] for name in bases}, bases)

    def _drawn(self, setup: ModelAndText, config: Config) -> Iterator[tuple[TextKind, ClozeText]]:
        """Yield the words of each text of which there are enough."""
        for kind, draw in (("domain", _of_domain), ("general", _of_general)):
            try:
                words = draw(setup, config)
                if words is not None:
                    samples = _samples(words, self._tokenizers)
                    length = config.chunking.chunk_length
                    yield kind, ClozeText.of(samples, self._tokenizers, length)  # type: ignore[misc]
            except DataError as error:
                self.why_not.append(f"words of the {kind} text cannot be compared: {error}")


def distinct_tokenizers(
    models: Sequence[ModelConfig], key: str = MODEL_KEY
) -> list[PreTrainedTokenizerFast]:
    """Load the tokenizers of models, each once, before any of the models; see `locate_model`.

    Nothing is loaded for a single model, which is compared with none.
    """
    if len(models) < 2:
        return []
    distinct: dict[str, PreTrainedTokenizerFast] = {}
    for model in models:
        tokenizer = load_tokenizer(locate_model(model.name_or_path, model.revision, key))
        distinct.setdefault(plain_backend(tokenizer).to_str(), tokenizer)
    return list(distinct.values())


def _of_domain(setup: ModelAndText, config: Config) -> list[DrawnWord]:
    if config.corpus.split_by == "chunk":
        raise DataError(
            "with corpus.split_by: chunk, parts of all documents were trained on; split by document"
        )
    documents = drawn_documents(setup.splits.validation, setup.text, config.evaluation.seed)
    return draw_words(documents, config.evaluation.seed, config.tokenization.word_segmenter)


def _of_general(setup: ModelAndText, config: Config) -> list[DrawnWord] | None:
    if setup.splits.general is None:
        return None
    text = find_text(setup.text.general(config.evaluation.general))
    documents = drawn_documents(setup.splits.general, text, config.evaluation.seed)
    return draw_words(documents, config.evaluation.seed, config.tokenization.word_segmenter)


def _samples(
    words: Sequence[DrawnWord], tokenizers: Sequence[PreTrainedTokenizerFast]
) -> dict[str, Iterable[DrawnWord]]:
    """Return all words, and those of which tokenizers make different numbers of pieces, apart.

    If one vocabulary is the other with words added to it, the latter are those words.
    """
    forms = list(dict.fromkeys(word.form for word in words))
    counts = zip(*(WordCutter(each).num_pieces(forms) for each in tokenizers), strict=True)
    differs = {form: len({*of_form}) > 1 for form, of_form in zip(forms, counts, strict=True)}
    return {
        ALL_WORDS: words,
        CUT_DIFFERENTLY: (word for word in words if differs[word.form]),
        CUT_ALIKE: (word for word in words if not differs[word.form]),
    }


def compare_words(
    text: ClozeText, scores: Mapping[str, WordScores], bases: Mapping[str, str | None]
) -> WordFindings:
    """Compare models that were asked for the same words, with intervals by their documents.

    Args:
        text: The words.
        scores: The scores of each model, by its name.
        bases: The name of what each model is compared with; None for a base.
    """
    documents, units = np.unique(text.documents, return_inverse=True)
    has_documents = len(documents) >= FEWEST_DOCUMENTS
    if not has_documents:
        units = np.arange(len(text.words))
    every = next(iter(text.samples.values()))
    losses = [  # two for each model
        values
        for of_model in scores.values()
        for values in (of_model.losses, of_model.losses + of_model.counts(every))
    ]
    samples = []
    for sample, chosen in text.samples.items():
        means, draws = _means_and_draws([values[chosen] for values in losses], units[chosen])
        numbers = {name: number for number, name in enumerate(scores)}
        measured = []
        for name, number in numbers.items():
            change, base = None, bases[name]
            if base in numbers:
                # The draws are the same for both, so the difference is taken draw by draw.
                other = numbers[base]
                difference = draws[:, number] - draws[:, other]
                change = WordLosses(*Estimate.of_each(means[number] - means[other], difference))
            of_model = WordLosses(*Estimate.of_each(means[number], draws[:, number]))
            pieces = float(scores[name].num_pieces[chosen].mean())
            measured.append(WordMeasurement(name, pieces, of_model, change))
        samples.append(WordSample(sample, int(chosen.sum()), tuple(measured)))
    unit: Literal["documents", "words"] = "documents" if has_documents else "words"
    return WordFindings(len(documents), text.num_left_out, unit, tuple(samples))


def _means_and_draws(
    values: Sequence[NDArray[np.float64]], units: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average two values of K models over words, and over each resample of their units.

    Returns:
        (K, 2) means and (NUM_RESAMPLES, K, 2) draws.
    """
    by_unit = sums_by_unit(units, [np.ones(len(units)), *values])
    totals, sums = by_unit.sum(axis=0), resampled(by_unit)
    means, draws = totals[1:] / totals[0], sums[:, 1:] / sums[:, :1]
    return means.reshape(-1, 2), draws.reshape(len(draws), -1, 2)
