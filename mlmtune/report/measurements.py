"""Measurements of the models of a report on its texts, and their comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import Config, CorpusConfig, ModelConfig
from mlmtune.console import Console
from mlmtune.corpus.sources import corpus_sources
from mlmtune.errors import DataError
from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.report.comparison import compare, units_of
from mlmtune.report.findings import (
    Measurement,
    Model,
    Opinion,
    Standing,
    Text,
    TextPart,
    TokenExample,
    WordFindings,
)
from mlmtune.report.measuring import MeasuredModel, load_measured_model
from mlmtune.report.retrieval import Searches
from mlmtune.report.runs import FinishedRun
from mlmtune.report.specificity import BINS, kinds, vocabulary, words_at
from mlmtune.report.token_examples import ask, furthest_apart
from mlmtune.report.word_cloze import Clozes
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.splits import Splits


class Measurements:
    """The measurements of models on the texts of the first run, added model by model.

    Args:
        config: The config of the first run, which says what is measured.
        clozes: Compares words; None if the models have one tokenizer.
        keeps_models: Whether the models stay in memory, for `examples`.
    """

    def __init__(
        self,
        runs: Sequence[FinishedRun],
        config: Config,
        clozes: Clozes | None = None,
        *,
        keeps_models: bool = False,
    ) -> None:
        self._runs = runs
        self._config = config
        self._keeps_models = keeps_models
        self._domain: dict[str, TokenScores] = {}
        self._general: dict[str, TokenScores] = {}
        self._splits: dict[str, Splits] = {}
        self._kept: dict[str, MeasuredModel] = {}
        self._frequencies: dict[tuple[str, str], tuple[TokenFrequencies, str]] = {}
        self.clozes = clozes or Clozes([])
        self.answers: dict[str, list[tuple[Opinion, ...]]] = {}
        self.searches = Searches()

    def add(self, model: Model, model_config: ModelConfig, console: Console) -> Model:
        """Score every masked token with a model; return it with its tokenizer and head known."""
        config = self._config
        measured = load_measured_model(config, model_config, console)
        setup = measured.setup
        tokenizer = setup.store.made_of["tokenizer"]
        if tokenizer not in self._splits:
            self._splits[tokenizer] = setup.splits
            _check_text(self._runs, config, setup.splits)
        size = config.evaluation.batch_size
        self._domain[model.name] = measured.score(setup.evaluator.masks, size, console)
        if setup.general_evaluator is not None:
            masks = setup.general_evaluator.masks
            self._general[model.name] = measured.score(masks, size, console)
        with measured.computing():
            self.searches.add(
                model.name, setup, config,
                lambda probe: probe.measure(setup.loaded.model, measured.device),
            )  # fmt: skip
            self.clozes.add(
                model.name, setup, config,
                lambda cloze: cloze.measure(setup.loaded.model, measured.device),
            )  # fmt: skip
        self.answers[model.name] = list(ask(model.name, measured, config.evaluation.examples))
        if self._keeps_models:
            self._kept[model.name] = measured
        has_baseline = any(base == model.base for base, _ in self._frequencies)
        if has_baseline if model.is_adapted else setup.loaded.head_is_new:
            # In the tokens of each tokenizer, because an adapted model may have another one.
            baseline = (model.base or model.name, tokenizer)
            if baseline not in self._frequencies:
                self._frequencies[baseline] = setup.token_frequencies(), model.name
        return replace(model, head_is_new=setup.loaded.head_is_new, tokenizer=tokenizer)

    def with_frequencies(self, models: list[Model]) -> list[Model]:
        """Return the models, each with the name of what it is compared with.

        Token frequencies follow a base without a masked-LM head as one more model, because the
        adapted model must predict better than they do.
        """
        names: dict[tuple[str, str], str] = {}
        several_bases = len({base for base, _ in self._frequencies}) > 1
        for (base, tokenizer), (frequencies, model) in self._frequencies.items():
            of_base = f" for {base}" if several_bases else ""
            in_tokens = f" in the tokens of {model}" if model != base else ""
            name = names[base, tokenizer] = f"token frequencies alone{of_base}{in_tokens}"
            for scores in filter(None, (self._domain, self._general)):
                scores[name] = frequencies.score(scores[model])
            self.clozes.add_frequencies(name, frequencies, model)
        measured_by = {model: names[key] for key, (_, model) in self._frequencies.items()}
        compared = []
        for each in models:
            compared_with = None
            if each.base is not None:
                compared_with = names.get((each.base, each.tokenizer), each.base)
            compared.append(replace(each, compared_with=compared_with))
            if each.name in measured_by:
                compared.append(Model(measured_by[each.name], None, "", False, each.tokenizer))
        return compared

    def texts(self, models: list[Model]) -> tuple[Text, ...]:
        """Return the measurements on all texts, those of the domain first."""
        texts = [self._text("validation text", "domain", self._domain, models)]
        if self._general:
            view = next(iter(self._splits.values())).general
            assert view is not None
            names = ", ".join(source.name for source in view.store.sources)
            texts.append(self._text(names, "general", self._general, models))
        return tuple(texts)

    def standings(self, models: list[Model], text: Text) -> tuple[Standing, ...]:
        """Rank the results of several runs by what decides which weights are the best.

        That is `checkpoint.best_by` of the first run: the loss on the text of the domain, or nDCG.
        Where tokenizers differ, it is the loss of words, or if that was not measured the loss per
        byte. Empty for a single run, and if the models know different shares of the text.
        """
        runs = {model.name: model for model in models if model.is_adapted}
        if len(runs) < 2:
            return ()
        found = self.searches.findings({})
        if found is not None and self._config.checkpoint.best_by == "retrieval":
            ndcg = {name: found.of(name).measures.ndcg_at_10.value or 0.0 for name in runs}
            return self._standings_by_retrieval(sorted(ndcg, key=ndcg.__getitem__, reverse=True))
        have_same_tokens = len({model.tokenizer for model in runs.values()}) == 1
        if not have_same_tokens and text.words is not None:
            return self._standings_by_words(list(runs), text.words)
        if not (have_same_tokens or text.compares_bytes):
            return ()
        measured = {m.model: m for m in text.measurements}

        def place(name: str) -> float:
            of = measured[name]
            decisive = of.loss if have_same_tokens else of.perplexity_per_byte
            value = None if decisive is None else decisive.value
            return math.inf if value is None else value

        first, *others = sorted(runs, key=place)
        tokenizer = runs[first].tokenizer
        bases = {name: first for name in others if runs[name].tokenizer == tokenizer}
        scores = {name: self._domain[name] for name in (first, *bases)}
        units, _ = units_of(scores[first], self._splits[tokenizer].validation)
        compared = compare(scores, {first: None, **bases}, units)
        behind = {m.model: m.change.loss for m in compared if m.change is not None}
        return tuple(Standing(name, "loss", behind.get(name)) for name in (first, *others))

    def _standings_by_words(self, runs: list[str], words: WordFindings) -> tuple[Standing, ...]:
        """Compare the losses of the words that all runs were asked for, the best first."""
        first, *others = sorted(runs, key=lambda name: words.of(name).losses.loss.value or 0.0)
        compared = self.clozes.findings("domain", {first: None, **dict.fromkeys(others, first)})
        assert compared is not None  # words have decided the order
        changes = [compared.of(name).change for name in (first, *others)]
        return tuple(
            Standing(name, "word_loss", None if change is None else change.decisive)
            for name, change in zip((first, *others), changes, strict=True)
        )

    def _standings_by_retrieval(self, runs: list[str]) -> tuple[Standing, ...]:
        """Compare what runs find, the best first, with what the first of them finds."""
        found = self.searches.findings(dict.fromkeys(runs[1:], runs[0]))
        assert found is not None  # retrieval has decided their order
        changes = {name: found.of(name).change for name in runs}
        return tuple(
            Standing(name, "ndcg_at_10", None if change is None else change.ndcg_at_10)
            for name, change in changes.items()
        )

    def _text(
        self,
        name: str,
        kind: Literal["domain", "general"],
        scores: dict[str, TokenScores],
        models: list[Model],
    ) -> Text:
        """Measure one text, by tokenizer, because only models with the same tokens compare."""
        rows: dict[str, Measurement] = {}
        sources: dict[str, list[Measurement]] = {}
        specific: dict[str, list[Measurement]] = {}
        facts: dict[str, Any] = {}
        for tokenizer, splits in self._splits.items():
            view = splits.validation if kind == "domain" else splits.general
            assert view is not None
            here = {m.name: scores[m.name] for m in models if m.tokenizer == tokenizer}
            bases = {m.name: m.compared_with for m in models if m.name in here}
            some = next(iter(here.values()))
            units, by_document = units_of(some, view)
            measure = partial(compare, here, bases, units)
            rows |= {m.model: m for m in measure(known_text=KnownText.of(view))}
            documents = view.store.documents_at(some.positions)
            facts = facts or {  # in the tokens of the first model
                "num_documents": len(np.unique(documents)),
                "num_chunks": len(np.unique(some.chunks)),
                "num_mask_draws": int(some.draws.max()) + 1,
                "interval_unit": "documents" if by_document else "chunks",
            }
            of_source = view.store.documents.sources[documents]
            by_source = {
                view.store.sources[int(source)].name: of_source == source
                for source in np.unique(of_source)
            }
            # A single source is the text itself.
            groupings = [(sources, by_source)] if len(by_source) > 1 else []
            if kind == "domain" and splits.general is not None:
                by_kind = _by_specificity(some, view, splits.general, self._config.corpus)
                groupings.append((specific, by_kind))
            for parts, groups in groupings:
                for part, which in groups.items():
                    if which.any():
                        parts.setdefault(part, []).extend(measure(which))
        order = {model.name: number for number, model in enumerate(models)}
        compared_with = {model.name: model.compared_with for model in models}
        return Text(
            name=name,
            kind=kind,
            **facts,
            measurements=tuple(rows[model.name] for model in models),
            sources=_parts(sources, order),
            specificity=_parts(specific, order),
            words=self.clozes.findings(kind, compared_with),
        )

    def examples(self) -> tuple[tuple[TokenExample, ...], tuple[TokenExample, ...]]:
        """Return the tokens on which the model of a single run gained most, and lost most."""
        if len(self._kept) != 2 or len(self._splits) > 1:  # other tokenizers mask other tokens
            return (), ()
        return furthest_apart(self._kept, {name: self._domain[name] for name in self._kept})


def _parts(
    parts: Mapping[str, list[Measurement]], order: Mapping[str, int]
) -> tuple[TextPart, ...]:
    return tuple(
        TextPart(name, tuple(sorted(measured, key=lambda m: order[m.model])))
        for name, measured in parts.items()
    )


def _by_specificity(
    scores: TokenScores, view: ChunkView, general: ChunkView, corpus: CorpusConfig
) -> dict[str, NDArray[np.bool_]]:
    """Group the masked tokens by how much more frequent their word is than in general text."""
    store = view.store
    is_replayed = np.asarray([source.replay > 0 for source in corpus_sources(corpus)])
    # Replayed sources are general text, so their words are not those of the domain.
    words = words_at(store, scores.positions)
    here = vocabulary(store, np.flatnonzero(~is_replayed[store.documents.sources]))
    elsewhere = vocabulary(general.store, np.arange(general.store.num_documents))
    kind = kinds(here.frequency(words) / elsewhere.frequency(words))
    return {name: kind == number for number, (name, _) in enumerate(BINS)}


def _check_text(runs: Sequence[FinishedRun], config: Config, splits: Splits) -> None:
    """Refuse text on which the models cannot be judged.

    Raises:
        DataError: The text has changed since training, so that text may be measured that was
            trained on; or other runs were validated on other text.
    """
    first = runs[0]
    fingerprint = splits.validation.text_fingerprint()
    if fingerprint != first.record.corpus["validation"]["fingerprint"]:
        raise DataError(
            f"{first.path}: the corpus has changed since training, so the "
            "validation text may now contain text that was trained on; restore it, or train again"
        )
    for run in runs[1:]:
        if run.record.corpus["validation"]["fingerprint"] != fingerprint:
            raise DataError(
                f"{run.path} was validated on other text than {first.path}, so it may have been "
                "trained on that; give runs of one corpus and one split"
            )
    recorded = first.record.corpus["train"]["documents_in_general"]
    if config.evaluation.general and splits.num_in_general > recorded:
        raise DataError(
            f"evaluation.general: {splits.num_in_general - recorded:,} of its documents were "
            f"trained on in {first.path}; name other text"
        )
