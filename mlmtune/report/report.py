"""A report on one run or several: base against adapted model, on the same masks."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter

from mlmtune import __version__
from mlmtune.config import Config, CorpusConfig, ModelConfig
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import CheckpointError, ConfigError, DataError, ResourceError
from mlmtune.evaluation.frequencies import TokenFrequencies
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import LEAST_SAID
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.files import read_json, write_text
from mlmtune.modeling.names import short_names
from mlmtune.printable import counted
from mlmtune.report.comparison import compare, units_of
from mlmtune.report.examples import ask, furthest_apart, questions
from mlmtune.report.findings import (
    FORMAT_VERSION,
    Difference,
    Example,
    Measurement,
    Model,
    Opinion,
    Part,
    Probe,
    Report,
    Text,
)
from mlmtune.report.measuring import Subject, load_subject
from mlmtune.report.rendering import to_html, to_markdown
from mlmtune.report.runs import FinishedRun
from mlmtune.report.specificity import BINS, kinds, vocabulary, words_at
from mlmtune.report.verdict import judge
from mlmtune.shell import own_command
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.splits import Splits
from mlmtune.tokens.unknown import unknown_token_id
from mlmtune.training.job import flat

NOT_COMPARED = ("run", "tokenization")
"""Sections whose differences say nothing of what was trained."""


def report_on(
    runs: list[FinishedRun], overrides: list[str], output: Path | None, console: Console
) -> None:
    """Make a report, write it and say what it comes to.

    Args:
        runs: finished ones.
        overrides: of the first run's config, `evaluation.*` alone.
        output: the folder to write to; by default that of the run, or `report` for several.
        console: shows how far it is, and the verdicts.

    Raises:
        MlmtuneError: see `make_report` and `write_report`.
    """
    for run in runs:
        if run.num_broken_lines:
            broken = counted(run.num_broken_lines, "broken line")
            console.say(f"{run.path / 'metrics.jsonl'}: {broken} left out of the report")
    report = make_report(runs, with_overrides(runs[0], overrides), console)
    if output is None:
        output = runs[0].path if len(runs) == 1 else Path("report")
    written = write_report(report, output)
    for verdict in report.verdicts:
        console.result(f"{verdict.run}: {verdict.label}. {verdict.sentence}")
    console.result(f"the report is in {written} (also as .md and .json)")


def renew_report(path: Path, console: Console) -> None:
    """Write a run's report again with the probes that were made since, if it has a report.

    Args:
        path: the run's directory.
        console: told where the report cannot be read.

    Raises:
        ResourceError: it cannot be written.
    """
    if not (path / "report.json").exists():
        return
    content = read_json(path / "report.json") or {}
    try:
        if content.pop("format_version", None) != FORMAT_VERSION:
            raise ValueError("it is of another version, or broken")
        report = TypeAdapter(Report).validate_python(content)
    except ValueError:  # pydantic's, too
        console.say(
            f"{path / 'report.json'} cannot be read, so the probe is not in the report; make it "
            f"again: {own_command('report', path)}"
        )
        return
    write_report(replace(report, probes=_probes([path])), path)


def _probes(paths: list[Path]) -> tuple[Probe, ...]:
    """What `mlmtune probe` left in the directories of runs."""
    kept = [read_json(path / "probe.json") or {} for path in paths]
    contents = [content for by_task in kept for content in by_task.values()]
    try:
        found = TypeAdapter(tuple[Probe, ...]).validate_python(contents)
    except ValueError as error:  # pydantic's
        raise CheckpointError(
            f"{paths[0] / 'probe.json'}: broken; delete it, and mlmtune probe makes it again"
        ) from error
    return tuple(dict.fromkeys(found))  # a probe of several runs is in each


def make_report(runs: list[FinishedRun], config: Config, console: Console) -> Report:
    """Measure every run's model and its base on the text and the masks of the first run.

    Args:
        runs: finished ones; several are set side by side.
        config: of the first, with what the user wants measured differently.
        console: shows how far it is.

    Raises:
        ConfigError: models, text and examples do not fit.
        DataError: the text is no longer that of training, or runs were validated on different text.
        HubError: a base model is not to be reached.
        ResourceError: memory does not suffice for one chunk.
    """
    measured = _Measured(runs, config)
    models = []
    for model, where in _models(runs):
        console.say(f"measuring {model.name}")
        models.append(measured.add(model, where, console))
    _check_tokenizers(models)
    models = measured.with_frequencies(models)
    texts = measured.texts(models)
    of_runs = tuple(
        replace(run.record, name=model.name)
        for run, model in zip(runs, _adapted(models), strict=True)
    )
    gained, lost = measured.examples()
    names = " and ".join(model.name for model in _adapted(models))
    return Report(
        title=f"{names}: did adaptation help?",
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        verdicts=tuple(
            judge(model, texts, run) for model, run in zip(_adapted(models), of_runs, strict=True)
        ),
        models=tuple(models),
        notes=tuple(_notes(models, texts)),
        texts=texts,
        general_is_missing=not config.evaluation.general,
        gained=gained,
        lost=lost,
        questions=questions(config.evaluation.examples, measured.answers),
        runs=of_runs,
        differences=_differences(runs, [model.name for model in _adapted(models)]),
        probes=_probes([run.path for run in runs]),
    )


def _models(runs: list[FinishedRun]) -> list[tuple[Model, ModelConfig]]:
    """Every base once, then every run's model, each with where it lies and how it is run."""
    bases: dict[tuple[str, str | None], ModelConfig] = {}
    for run in runs:
        bases.setdefault(_key(run.config.model), run.config.model)
    adapted = [
        run.config.model.model_copy(update={"name_or_path": str(run.model), "revision": None})
        for run in runs
    ]
    configs = [*bases.values(), *adapted]
    names = short_names([config.name_or_path for config in configs])
    name_of_base = dict(zip(bases, names, strict=False))  # they come first
    base_of = [None] * len(bases) + [name_of_base[_key(run.config.model)] for run in runs]
    return [
        (Model(name, base, config.name_or_path, head_is_new=False, tokenizer=""), config)
        for name, base, config in zip(names, base_of, configs, strict=True)
    ]


def _key(model: ModelConfig) -> tuple[str, str | None]:
    return model.name_or_path, model.revision


def _adapted(models: list[Model]) -> list[Model]:
    return [model for model in models if model.is_adapted]


class _Measured:
    """What the models said so far, each in the tokens of its tokenizer."""

    def __init__(self, runs: list[FinishedRun], config: Config) -> None:
        self._runs = runs
        self._config = config
        self._domain: dict[str, TokenScores] = {}
        self._general: dict[str, TokenScores] = {}
        self._splits: dict[str, Splits] = {}
        self._kept: dict[str, Subject] = {}
        self._frequencies: dict[str, TokenFrequencies] = {}
        self.answers: dict[str, list[tuple[Opinion, ...]]] = {}

    def add(self, model: Model, where: ModelConfig, console: Console) -> Model:
        """Load a model and ask it for every masked token; returns it with what was found out."""
        config = self._config
        subject = load_subject(config, where, console)
        tokenizer = subject.store.made_of["tokenizer"]
        if tokenizer not in self._splits:
            self._splits[tokenizer] = subject.splits
            _check_text(self._runs, config, subject.splits)
        size = config.evaluation.batch_size
        self._domain[model.name] = subject.score(subject.evaluator.masks, size, console)
        if subject.general_evaluator is not None:
            masks = subject.general_evaluator.masks
            self._general[model.name] = subject.score(masks, size, console)
        self.answers[model.name] = list(ask(model.name, subject, config.evaluation.examples))
        if len(self._runs) == 1:
            self._kept[model.name] = subject  # two models, for the examples
        if subject.loaded.head_is_new and not model.is_adapted:
            vocabulary_size = subject.loaded.model.get_input_embeddings().num_embeddings
            self._frequencies[model.name] = TokenFrequencies.of(
                subject.splits.train.token_counts(vocabulary_size),
                unknown_token_id(subject.loaded.tokenizer),
            )
        return replace(model, head_is_new=subject.loaded.head_is_new, tokenizer=tokenizer)

    def with_frequencies(self, models: list[Model]) -> list[Model]:
        """The models, each with what it is compared with.

        Behind a base without a masked-LM head of its own stand the token frequencies, as one more
        model: they are what the adapted model has to do better than.
        """
        names: dict[str, str] = {}
        for base, frequencies in self._frequencies.items():
            several = f" for {base}" if len(self._frequencies) > 1 else ""
            names[base] = f"token frequencies alone{several}"
            for scores in filter(None, (self._domain, self._general)):
                scores[names[base]] = frequencies.score(scores[base])
        found = []
        for model in models:
            compared_with = None if model.base is None else names.get(model.base, model.base)
            found.append(replace(model, compared_with=compared_with))
            if model.name in names:
                found.append(Model(names[model.name], None, "", False, model.tokenizer))
        return found

    def texts(self, models: list[Model]) -> tuple[Text, ...]:
        """The measurements on all texts, the domain's first."""
        texts = [self._text("validation text", "domain", self._domain, models)]
        if self._general:
            view = next(iter(self._splits.values())).general
            assert view is not None
            names = ", ".join(source.name for source in view.store.sources)
            texts.append(self._text(names, "general", self._general, models))
        return tuple(texts)

    def _text(
        self,
        name: str,
        kind: Literal["domain", "general"],
        scores: dict[str, TokenScores],
        models: list[Model],
    ) -> Text:
        """One text: by tokenizer, since only the same tokens can be compared one by one."""
        rows: dict[str, Measurement] = {}
        sources: dict[str, list[Measurement]] = {}
        specific: dict[str, list[Measurement]] = {}
        facts: list[dict[str, Any]] = []
        for tokenizer, splits in self._splits.items():
            view = splits.validation if kind == "domain" else splits.general
            assert view is not None
            here = {m.name: scores[m.name] for m in models if m.tokenizer == tokenizer}
            bases = {m.name: m.compared_with for m in models if m.name in here}
            some = next(iter(here.values()))
            units, by_document = units_of(some, view)
            rows |= {m.model: m for m in compare(here, bases, units, known_text=KnownText.of(view))}
            documents = view.store.documents_at(some.positions)
            facts.append(
                {
                    "num_documents": len(np.unique(documents)),
                    "num_chunks": len(np.unique(some.chunks)),
                    "num_mask_draws": int(some.draws.max()) + 1,
                    "interval_unit": "documents" if by_document else "chunks",
                }
            )
            of_source = view.store.document_sources[documents]
            groups = {
                view.store.sources[int(source)].name: of_source == source
                for source in np.unique(of_source)
            }
            if len(groups) > 1:
                _add_parts(sources, here, bases, units, groups)
            if kind == "domain" and splits.general is not None:
                groups = _by_specificity(some, view, splits.general, self._config.corpus)
                _add_parts(specific, here, bases, units, groups)
        order = {model.name: place for place, model in enumerate(models)}
        return Text(
            name=name,
            kind=kind,
            **facts[0],  # of the first model's tokens
            measurements=tuple(rows[model.name] for model in models),
            sources=_parts(sources, order),
            specificity=_parts(specific, order),
        )

    def examples(self) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Where the adapted model of a single run gained and lost most."""
        if len(self._kept) != 2:
            return (), ()
        return furthest_apart(self._kept, {name: self._domain[name] for name in self._kept})


def _add_parts(
    parts: dict[str, list[Measurement]],
    scores: Mapping[str, TokenScores],
    bases: Mapping[str, str | None],
    units: NDArray[np.int64],
    groups: Mapping[str, NDArray[np.bool_]],
) -> None:
    for name, which in groups.items():
        if which.any():
            parts.setdefault(name, []).extend(compare(scores, bases, units, which))


def _parts(parts: Mapping[str, list[Measurement]], order: Mapping[str, int]) -> tuple[Part, ...]:
    return tuple(
        Part(name, tuple(sorted(measured, key=lambda m: order[m.model])))
        for name, measured in parts.items()
    )


def _by_specificity(
    scores: TokenScores, view: ChunkView, general: ChunkView, corpus: CorpusConfig
) -> dict[str, NDArray[np.bool_]]:
    """The masked tokens by how much more often their word stands here than in general text."""
    store = view.store
    is_replayed = np.zeros(len(store.sources), dtype=bool)
    is_replayed[len(corpus.validation_sources) :] = [s.replay is not None for s in corpus.sources]
    words = words_at(store, scores.positions)
    here = vocabulary(store, np.flatnonzero(~is_replayed[store.document_sources]))
    elsewhere = vocabulary(general.store, np.arange(general.store.num_documents))
    kind = kinds(here.frequency(words) / elsewhere.frequency(words))
    return {name: kind == number for number, (name, _) in enumerate(BINS)}


def _check_text(runs: list[FinishedRun], config: Config, splits: Splits) -> None:
    """Refuse text on which the models cannot be judged.

    Raises:
        DataError: the text has changed since training, so that what is measured now may have been
            trained on; or other runs were validated on other text.
    """
    first = runs[0]
    fingerprint = splits.validation.text_fingerprint()
    if fingerprint != first.record.corpus["validation"]["fingerprint"]:
        raise DataError(
            f"{first.path}: the corpus has changed since training, so text that was trained on may "
            "be among what is validated on now; put it back, or train again"
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


def _check_tokenizers(models: list[Model]) -> None:
    """Refuse a model that cuts text in another way than its base: their tokens do not pair.

    Raises:
        ConfigError: there is one.
    """
    tokenizers = {model.name: model.tokenizer for model in models}
    for model in models:
        if model.base is not None and tokenizers[model.base] != model.tokenizer:
            raise ConfigError(
                f"{model.location}: its tokenizer is not that of {model.base}, which it was "
                "adapted from; put back the one it was saved with"
            )


def _notes(models: list[Model], texts: tuple[Text, ...]) -> list[str]:
    notes = [
        f"{model.name} has no masked-LM head of its own. It was measured with a new one, which "
        "says little, so changes are against token frequencies alone: how often each token stands "
        "in the training text."
        for model in models
        if model.head_is_new and not model.is_adapted
    ]
    if len({model.tokenizer for model in models}) > 1:
        notes.append(
            "The models have different tokenizers. A finer one cuts a word into more pieces, and "
            "most pieces are easy to tell from those beside them, so perplexities and accuracies "
            "per token do not compare"
            + ("; those per word and per byte do." if all(t.compares_bytes for t in texts) else ".")
        )
    notes += list(_notes_on_unknown_text(texts))
    notes += [
        f"{text.name}: only {counted(text.num_documents, 'document')}, so intervals come from "
        "chunks; those of one document are alike, and so the intervals are too narrow."
        for text in texts
        if text.interval_unit == "chunks"
    ]
    return notes


def _notes_on_unknown_text(texts: tuple[Text, ...]) -> Iterator[str]:
    for text in texts:
        shares = {
            m.model: f"{m.model} {m.unknown_token_share:.1%} of the tokens and "
            f"{m.unknown_byte_share:.1%} of the bytes"
            for m in text.measurements
            if m.unknown_token_share
        }
        if not text.compares_bytes:
            yield (
                f"{text.name}: the models do not know the same share of it (unknown are to "
                f"{'; to '.join(shares.values())}). What a model does not know is left out of its "
                "numbers, so no perplexity here says which of these models is better; compare them "
                "on a task (mlmtune probe)."
            )
        elif max(m.unknown_token_share or 0.0 for m in text.measurements) >= LEAST_SAID:
            share = next(iter(shares.values()))
            yield (
                f"{text.name}: a part of it is unknown to the tokenizer ({share}). It was neither "
                "predicted nor scored, so all numbers are about the rest."
            )


def _differences(runs: list[FinishedRun], names: list[str]) -> tuple[Difference, ...]:
    """Settings that are not the same in all runs."""
    settings = [flat(run.config.model_dump(exclude=set(NOT_COMPARED))) for run in runs]
    keys = list(dict.fromkeys(key for values in settings for key in values))
    found = []
    for key in keys:
        values = [yaml.safe_dump(of_run.get(key), default_flow_style=True) for of_run in settings]
        if len(set(values)) > 1:
            shown = [value.removesuffix("\n...\n").strip() for value in values]
            found.append(Difference(key, dict(zip(names, shown, strict=True))))
    return tuple(found)


def with_overrides(run: FinishedRun, overrides: list[str]) -> Config:
    """A run's config with other settings of what is measured.

    Raises:
        ConfigError: an override is of something else, or wrong.
    """
    for override in overrides:
        if not override.startswith("evaluation."):
            raise ConfigError(
                f"{override}: a report measures what was trained; only evaluation.* can be changed"
            )
    return load_config(run.path / "config.resolved.yaml", overrides)


def write_report(report: Report, folder: Path) -> Path:
    """Write report.html, report.md and report.json into a folder; returns the first.

    Raises:
        ResourceError: it cannot be written.
    """
    contents = {
        "report.json": json.dumps(
            report.to_json(), indent=1, ensure_ascii=False, allow_nan=False
        ) + "\n",
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_text(folder / name, content)
    except OSError as error:
        raise ResourceError(
            f"{folder}: the report cannot be written ({error.strerror}); give another --output"
        ) from error
    return folder / "report.html"
