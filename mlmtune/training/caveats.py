"""Caveats: warnings before training of what is likely to make the result of a run worthless.

Each is a line that says what is unusual and what to do. None is an error, because a trial of a few
steps on a few pages may be what the user wants.
"""

from collections.abc import Iterator

import numpy as np

from mlmtune.config import Config
from mlmtune.config_loading import load_config
from mlmtune.corpus.sources import corpus_sources
from mlmtune.errors import ConfigError
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.scoring import FixedMasks
from mlmtune.files import read_json
from mlmtune.locations import expand_home, run_directory
from mlmtune.numbers import share
from mlmtune.printable import counted
from mlmtune.tokens.splits import Splits
from mlmtune.training.optimization import num_warmup_steps
from mlmtune.training.plan import Phase, Plan
from mlmtune.training.run_dir import RESOLVED_CONFIG

LEARNING_RATES = (1e-6, 1e-3)
"""The range of usual peaks, from fine-tuning to pretraining with large batches."""

MOST_EPOCHS = 150
"""Task-adaptive pretraining takes 100 epochs (Gururangan et al. 2020). After more than 150, a model
has memorised its text."""

FEWEST_STEPS = 10  # fewer hardly change a model

FEWEST_DOCUMENTS = 20
"""Fewer validation documents say little about how documents differ."""

FEWEST_MASKED_TOKENS = 1000
"""With fewer, chance alone moves an accuracy of one half by more than 3 points."""

FAR_FROM_ASKED = 2.0
"""The factor by which the share of the validation text may differ from `validation_fraction`."""

LOCATION_KEYS = {"path", "git", "dataset"}
SPLIT_KEYS = ("validation_fraction", "validation_sources", "split_by", "split_seed")


def of_schedule(plan: Plan, what: str) -> Iterator[str]:
    """Yield caveats about the learning rate and the length of a run, which trains on `what`."""
    for phase in plan.phases:
        for caveat in _of_phase(phase, what):
            yield f"phase {phase.name}: {caveat}" if phase.name else caveat


def _of_phase(phase: Phase, what: str) -> Iterator[str]:
    optimizer, rate = phase.optimizer, phase.optimizer.learning_rate
    low, high = LEARNING_RATES
    if not low <= rate <= high:
        consequence = "is likely to ruin the model" if rate > high else "hardly changes the model"
        yield (
            f"optimizer.learning_rate: {rate:g} {consequence}; encoders are trained with {low:g} "
            f"to {high:g}, and 5e-5 is a good first try"
        )
    warmup = num_warmup_steps(phase.num_steps, optimizer)
    if warmup > phase.num_steps / 2:
        remedy = "lower optimizer.warmup_ratio (0.06 is usual)"
        if optimizer.warmup_steps is not None:
            remedy = "lower optimizer.warmup_steps, or train longer"
        yield f"the learning rate rises for {warmup:,} of {phase.num_steps:,} steps; {remedy}"
    if phase.num_epochs > MOST_EPOCHS:
        enough = max(1, int(MOST_EPOCHS / phase.epochs_after(1)))
        yield (
            f"{'it' if phase.name else 'the run'} passes {phase.num_epochs:,.0f} times over "
            f"{phase.num_chunks:,} training {what} and would memorise them; set "
            f"{'' if phase.name else 'training.'}max_steps to {enough:,} or less, or add text"
        )


def of_masked_lm(
    config: Config,
    plan: Plan,
    splits: Splits,
    masks: FixedMasks,
    general_masks: FixedMasks | None,
) -> Iterator[str]:
    """Yield caveats about a run of masked language modelling.

    Perplexity is measured on `masks`, and forgetting on `general_masks`.
    """
    yield from of_schedule(plan, "chunks")
    too_small = next((p for p in plan.phases if p.global_batch_size > p.num_chunks), None)
    if too_small is not None:
        yield (
            f"a step takes {too_small.global_batch_size:,} chunks and the training text "
            f"{f'of phase {too_small.name} ' if too_small.name else ''}has "
            f"{too_small.num_chunks:,}, so each step sees the same text several times; lower "
            "global_batch_size, or add text"
        )
    elif plan.max_steps < FEWEST_STEPS and config.training.max_steps is None and not config.phases:
        yield (
            f"the whole run is {counted(plan.max_steps, 'step')}, which hardly changes the model; "
            "lower training.global_batch_size, raise training.epochs, or add text"
        )
    yield from _of_validation(config, splits, masks)
    yield from _of_share(config, splits)
    if general_masks is not None:
        num_masked = _num_masked(general_masks, config)
        if num_masked < FEWEST_MASKED_TOKENS:
            yield (
                f"evaluation.general has about {num_masked:,} masked tokens, too few to tell "
                "whether anything was forgotten; name more text"
            )
    yield from _of_base(config, splits)


def _num_masked(masks: FixedMasks, config: Config) -> int:
    """Estimate how many tokens of a text are masked in at least one draw."""
    measured_share = len(masks.chunks) / len(masks.view)
    # Draws mask different tokens until nearly all of the text was masked.
    masked_share = min(config.evaluation.mlm_probability * masks.num_draws, 1.0)
    known_share = 1 - KnownText.of(masks.view).unknown_token_share  # unknown ones are never masked
    return round(masks.view.num_body_tokens * known_share * measured_share * masked_share)


def _of_validation(config: Config, splits: Splits, masks: FixedMasks) -> Iterator[str]:
    """Yield a caveat if there is too little validation text to tell a change from chance."""
    measured_share = len(masks.chunks) / len(masks.view)
    num_masked = _num_masked(masks, config)
    num_documents = masks.view.num_documents
    too_few = []
    if num_documents is not None and num_documents < FEWEST_DOCUMENTS:
        too_few.append(counted(num_documents, "document"))
    if num_masked < FEWEST_MASKED_TOKENS:
        too_few.append(f"about {counted(num_masked, 'masked token')}")
    if not too_few:
        return
    if num_masked < FEWEST_MASKED_TOKENS <= num_masked / measured_share:
        remedy = "raise evaluation.max_chunks"
    elif config.corpus.validation_sources:
        remedy = "add text to corpus.validation_sources"
    elif config.corpus.max_validation_chunks is not None:
        remedy = "raise corpus.max_validation_chunks, or add text"
    elif _has_few_documents(splits):
        remedy = "add documents"
    else:
        now = config.corpus.validation_fraction
        remedy = f"raise corpus.validation_fraction ({now:g} now), or add text"
    yield (
        f"the validation text is {' with '.join(too_few)}, too little to tell a small change from "
        f"chance; {remedy}"
    )


def _of_share(config: Config, splits: Splits) -> Iterator[str]:
    """Yield a caveat if the share of the validation text is far from `validation_fraction`."""
    corpus, view = config.corpus, splits.validation
    if view.num_characters is None or corpus.validation_sources:
        return
    is_split = np.asarray([not source.replay for source in corpus_sources(corpus)])
    documents = view.store.documents
    total = int(documents.num_characters[is_split[documents.sources]].sum())
    actual, asked = view.num_characters / max(total, 1), corpus.validation_fraction
    if asked / FAR_FROM_ASKED <= actual <= asked * FAR_FROM_ASKED:
        return
    yield (
        f"the validation text is {share(actual)} of the characters, and corpus.validation_fraction "
        f"asks for {share(asked)}: documents are whole on one side, and these are few or of very "
        "different lengths; "
        + ("add documents" if _has_few_documents(splits) else "try another corpus.split_seed")
        + ", or name corpus.validation_sources"
    )


def _has_few_documents(splits: Splits) -> bool:
    """Whether half of the documents would be too few to validate on."""
    sides = splits.train.num_documents, splits.validation.num_documents
    return sum(side or 0 for side in sides) < 2 * FEWEST_DOCUMENTS and None not in sides


def _of_base(config: Config, splits: Splits) -> Iterator[str]:
    """Yield a caveat if the base is the result of a run that trained on this validation text."""
    run = run_directory(expand_home(config.model.name_or_path))
    record = None if run is None else read_json(run / "corpus.json")
    if run is None or record is None or not (run / RESOLVED_CONFIG).is_file():
        return
    try:
        then = load_config(run / RESOLVED_CONFIG).corpus
    except ConfigError:
        return
    locations_then = [source.model_dump(include=LOCATION_KEYS) for source in then.sources]
    shares_text = any(
        source.model_dump(include=LOCATION_KEYS) in locations_then
        for source in config.corpus.sources
    )
    fingerprint = record.get("validation", {}).get("fingerprint")
    changed = [key for key in SPLIT_KEYS if getattr(then, key) != getattr(config.corpus, key)]
    if shares_text and changed and fingerprint != splits.validation.text_fingerprint():
        keys = ", ".join(f"corpus.{key}" for key in changed)
        yield (
            f"the base is the result of {run}, which split the same text otherwise ({keys}), so it "
            "was trained on text that is validated on here, and looks better than it is; set "
            f"{keys} as in that run"
        )
