"""Making a report: base and adapted models of one run or several, on the same masks."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import yaml

from mlmtune import __version__
from mlmtune.config import Config, ModelConfig
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.evaluation.perplexity import LEAST_SAID
from mlmtune.modeling.names import short_names
from mlmtune.numbers import share
from mlmtune.printable import counted
from mlmtune.report.findings import Difference, Model, Report, Text
from mlmtune.report.measurements import Measurements
from mlmtune.report.runs import FinishedRun
from mlmtune.report.token_examples import questions
from mlmtune.report.verdict import judge
from mlmtune.report.word_cloze import Clozes, distinct_tokenizers
from mlmtune.report.writing import read_probes
from mlmtune.training.identity import flat

NOT_COMPARED = ("run", "tokenization")
"""Sections of the config that do not change what is trained."""


def make_report(runs: list[FinishedRun], config: Config, console: Console) -> Report:
    """Measure the model of every run and its base on the text and the masks of the first run.

    Args:
        runs: The finished runs; several are compared with each other.
        config: The config of the first run, with the settings that the user has overridden.
        console: Shows the progress.

    Raises:
        ConfigError: Models, text and examples do not fit.
        DataError: The text has changed since training, or runs were validated on different text.
        HubError: A base model cannot be fetched.
        ResourceError: Memory does not suffice for one chunk.
    """
    to_measure, models = _models(runs), []
    clozes = Clozes(distinct_tokenizers([model_config for _, model_config in to_measure]))
    # Of one run there are only two models, which the examples need again.
    measured = Measurements(runs, config, clozes, keeps_models=len(runs) == 1)
    for model, model_config in to_measure:
        console.say(f"measuring {model.name}")
        models.append(measured.add(model, model_config, console))
    _check_tokenizers(models, {str(r.model) for r in runs if r.config.vocabulary.is_used})
    models = measured.with_frequencies(models)
    texts = measured.texts(models)
    found = measured.searches.findings({model.name: model.base for model in models})
    adapted = {model.name: model for model in models if model.is_adapted}
    of_runs = tuple(replace(run.record, name=name) for run, name in zip(runs, adapted, strict=True))
    gained, lost = measured.examples()
    return Report(
        title=f"{_named(adapted)}: did training help?",
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mlmtune_version=__version__,
        verdicts=tuple(judge(adapted[run.name], texts, run, found) for run in of_runs),
        models=tuple(models),
        notes=(
            *_notes(models, texts),
            *clozes.why_not,
            *filter(None, [measured.searches.why_not]),
        ),
        texts=texts,
        general_is_missing=not config.evaluation.general,
        gained=gained,
        lost=lost,
        questions=questions(config.evaluation.examples, measured.answers),
        runs=of_runs,
        standings=measured.standings(models, texts[0]),
        differences=_differences(dict(zip(adapted, runs, strict=True))),
        probes=read_probes([run.path for run in runs], console),
        retrieval=found,
    )


def _models(runs: list[FinishedRun]) -> list[tuple[Model, ModelConfig]]:
    """Return every base once, then the model of every run, each with how it is loaded."""
    # Runs of the same base share its measurement, which takes as long as theirs.
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


def _check_tokenizers(models: list[Model], extended: set[str]) -> None:
    """Refuse a model that cuts text into other tokens than its base, unless its run added words.

    Args:
        models: The models.
        extended: The locations of those whose run added words.

    Raises:
        ConfigError: There is such a model.
    """
    tokenizers = {model.name: model.tokenizer for model in models}
    for model in models:
        if model.base is None or model.location in extended:
            continue
        if tokenizers[model.base] != model.tokenizer:
            raise ConfigError(
                f"{model.location}: its tokenizer is not that of {model.base}, which it was "
                "adapted from; restore the tokenizer that it was saved with"
            )


def _notes(models: list[Model], texts: tuple[Text, ...]) -> list[str]:
    notes = [
        f"{model.name} has no masked-LM head of its own. It was measured with a new one, which "
        "means little, so changes are relative to token frequencies alone: how often each token "
        "occurs in the training text."
        for model in models
        if model.head_is_new and not model.is_adapted
    ]
    if len({model.tokenizer for model in models}) > 1:
        notes.append(
            "The models have different tokenizers. One with smaller tokens cuts a word into more "
            "of them, and most are easy to predict from their neighbours, so perplexities and "
            "accuracies per token do not compare"
            + ("; those per word and per byte do." if all(t.compares_bytes for t in texts) else ".")
            + (" So the models were asked for the same whole words, too." if texts[0].words else "")
        )
    notes += notes_on_unknown_text(texts)
    notes += [
        f"{text.name}: only {counted(text.num_documents, 'document')}, so intervals come from "
        "chunks. Chunks of one document are alike, so these intervals are too narrow."
        for text in texts
        if text.interval_unit == "chunks"
    ]
    return notes


def notes_on_unknown_text(texts: tuple[Text, ...]) -> Iterator[str]:
    """Yield a note on each text of which a tokenizer does not know a part worth mentioning."""
    for text in texts:
        shares = {
            m.model: f"{m.model} {share(m.unknown_token_share)} of the tokens and "
            f"{share(m.unknown_byte_share or 0.0)} of the bytes"
            for m in text.measurements
            if m.unknown_token_share
        }
        if not text.compares_bytes:
            yield (
                f"{text.name}: the models know different shares of it (unknown: "
                f"{'; '.join(shares.values())}). What a model does not know is left out of its "
                "numbers, so no perplexity here says which of these models is better; compare them "
                "on a task (mlmtune probe)."
            )
        elif max(m.unknown_token_share or 0.0 for m in text.measurements) >= LEAST_SAID:
            unknown = next(iter(shares.values()))
            yield (
                f"{text.name}: a part of it is unknown to the tokenizer ({unknown}). It was "
                "neither predicted nor scored, so all numbers are about the rest."
            )


def _named(runs: Iterable[str]) -> str:
    """Name runs in a title, in which more than two would leave no room for the rest."""
    names = list(runs)
    return " and ".join(names) if len(names) < 3 else f"{len(names)} runs"


def _differences(runs: Mapping[str, FinishedRun]) -> tuple[Difference, ...]:
    """Return the settings that differ between the runs, which are given by name."""
    settings = {
        name: flat(run.config.model_dump(exclude=set(NOT_COMPARED))) for name, run in runs.items()
    }
    differences = []
    for key in dict.fromkeys(key for of_run in settings.values() for key in of_run):
        values = {
            name: yaml.safe_dump(of_run.get(key), default_flow_style=True)
            for name, of_run in settings.items()
        }
        if len(set(values.values())) > 1:
            shown = {name: value.removesuffix("\n...\n").strip() for name, value in values.items()}
            differences.append(Difference(key, shown))
    return tuple(differences)
