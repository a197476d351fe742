"""`mlmtune check`: show what a run would do, before hours are spent on it."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from mlmtune.config import Config
from mlmtune.corpus.funnel import remarks
from mlmtune.corpus.languages import LEAST_PROBABILITY
from mlmtune.corpus.source_reader import CleanDocument, SourceReader, Tally
from mlmtune.masking.selection import mean_mlm_probability
from mlmtune.modeling.device import build_accelerator
from mlmtune.numbers import share
from mlmtune.printable import counted, printable
from mlmtune.randomness import key, permute
from mlmtune.tokens.chunking import ChunkView
from mlmtune.tokens.encoding import role_tokens
from mlmtune.tokens.pairs import PairSequences
from mlmtune.tokens.splits import PhaseText
from mlmtune.training import advice
from mlmtune.training.checkpoint import TrainState
from mlmtune.training.environment import peak_memory_bytes
from mlmtune.training.learner import prepare_learner
from mlmtune.training.masked_lm import MaskedLM, build_masked_lm
from mlmtune.training.memory import estimate_memory, fit_micro_batch
from mlmtune.training.memory_table import gigabytes, memory_table
from mlmtune.training.phase_table import phase_table
from mlmtune.training.progress import Progress
from mlmtune.training.setup import ModelAndText
from mlmtune.training.shown_masks import show_masks
from mlmtune.training.step import agree, take_step
from mlmtune.training.task import Task

NUM_SAMPLES = 3
SAMPLE_CHARACTERS = 300
NUM_ADDED = 10
"""How many of the special tokens that a user added are shown."""
MEASURED_STEPS = 10
WARMUP_STEPS = 2
"""How many of the measured steps are left out, because the first ones allocate memory."""

SAMPLE_STREAM = 0xC4EC
"""Separates the choice of samples from the other draws of `corpus.split_seed`."""


def preview(
    config: Config, *, measure: bool, num_chunks: int, num_draws: int, compares: bool
) -> None:
    """Print the plan of a run, samples of its text, and chunks with their masks.

    With `measure`, ten real steps are taken, and their speed is printed. With `compares`, every
    masking strategy is shown, not only that of the config.

    Raises:
        MlmtuneError: Something would keep the run from starting.
    """
    accelerator = build_accelerator(config.training.precision)
    progress = Progress(is_main=accelerator.is_main_process, is_quiet=False)
    task = build_masked_lm(config, accelerator, progress)

    for name, text in _plan_lines(config, task, accelerator.device):
        progress.result(f"{name:<12}{text}")
    for line in phase_table(task.config, task.plan):
        progress.result(f"{'':<12}{line}")
    samples = list(islice(_samples(task), NUM_SAMPLES))
    if samples:
        progress.result("\nsamples of the text, cleaned")
    for sample in samples:
        progress.result(f"{printable(sample.id)}\n{_excerpt(sample.text)}")
    show_masks(task, progress, num_chunks=num_chunks, num_draws=num_draws, compares=compares)
    if measure:
        progress.result("")
        seconds = _measure_steps(task, accelerator, progress)
        _show_measured(task, seconds, peak_memory_bytes(accelerator.device), progress)
    accelerator.end_training()


def _plan_lines(asked: Config, task: MaskedLM, device: torch.device) -> Iterator[tuple[str, str]]:
    config, loaded, plan, splits = task.config, task.loaded, task.plan, task.setup.splits
    context = loaded.context_length
    yield (
        "model",
        f"{config.model.name_or_path}: {type(loaded.model).__name__}, "
        f"{loaded.num_parameters / 1e6:.1f} M parameters, context length "
        f"{'not known' if context is None else context}"
        + (", with a new masked-LM head" if loaded.head_is_new else ""),
    )
    yield (
        "device",
        f"{device}, {config.training.precision}, {loaded.attn_implementation} attention, "
        f"{'compiled, ' if config.training.compile else ''}"
        f"head on {'masked positions' if task.setup.head.is_sparse else 'all positions'}",
    )
    for kind in ("files", "documents"):
        counts = task.setup.store.funnel[kind]
        done = "read" if kind == "files" else "kept"
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts["left_out"].items())
        yield (
            kind,
            f"{counts['found']:,} found, {counts[done]:,} {done}, "
            f"{sum(counts['left_out'].values()):,} left out" + (f" ({reasons})" if reasons else ""),
        )
    for remark in remarks(task.setup.store.funnel):
        yield "corpus", remark
    for name, view in (("training", splits.train), ("validation", splits.validation)):
        yield name, _describe_side(view, task.setup.store.documents.num_characters.sum())
    for sequences in task.sequences:
        if isinstance(sequences.unmasked, PairSequences):
            yield "pairs", sequences.unmasked.describe()
    if added := _added_tokens(task):
        yield "added", added
    yield "steps", plan.describe()
    for phase, settings, text in zip(plan.phases, config.by_phase, splits.phases, strict=True):
        of_phase = f" of phase {phase.name}" if phase.name else ""
        num_masked = _masked_tokens_per_epoch(task.setup, settings, text)
        yield "masked", f"about {num_masked:,} tokens per epoch{of_phase}"
    needed = estimate_memory(task, plan.micro_batch_size, device, plan.num_processes)
    yield "memory", f"about {gigabytes(needed.total)} GB here; by estimate on GPUs:"
    for line in memory_table(asked, task, device):
        yield "", line
    for caveat in task.caveats():
        yield "warning", caveat
    if advised := advice.faster_settings(config, loaded, plan):
        yield "try", advice.describe(advised)


def _describe_side(view: ChunkView, total_characters: int) -> str:
    lost = view.num_tokens_dropped + view.num_tokens_truncated
    documents = ""
    if view.num_documents is not None and view.num_characters is not None:
        of_text = share(view.num_characters / total_characters)
        documents = f"{counted(view.num_documents, 'document')}, {of_text} of the characters, "
    return f"{documents}{counted(view.num_body_tokens, 'token')}, {counted(len(view), 'chunk')}" + (
        f" ({counted(lost, 'token')} cut off, as the config says)" if lost else ""
    )


def _added_tokens(task: MaskedLM) -> str:
    """Say how often the special tokens that a user added occur; an empty string without any."""
    tokenizer = task.loaded.tokenizer
    roles = role_tokens(tokenizer)
    added = {
        id_: token.content
        for id_, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token.content not in roles
    }
    if not added:
        return ""
    counts = task.setup.splits.train.token_counts(max(tokenizer.get_vocab().values()) + 1)
    present = [f"{printable(name)} {counts[id_]:,}" for id_, name in added.items() if counts[id_]]
    num_absent = len(added) - len(present)
    parts = [f"tokens of the training text: {', '.join(present[:NUM_ADDED])}"] if present else []
    if len(present) > NUM_ADDED:
        parts.append(f"{len(present) - NUM_ADDED:,} others occur, too")
    if num_absent:
        parts.append(f"{num_absent:,} of {len(added):,} never occur in it")
    return "; ".join(parts)


def _masked_tokens_per_epoch(setup: ModelAndText, settings: Config, text: PhaseText) -> int:
    """Estimate the masked tokens of an epoch of a phase, by its config and its text."""
    # Unknown tokens are never selected.
    known = [1 - s.num_unknown_tokens / max(s.num_tokens, 1) for s in setup.store.sources]
    num_tokens = float(text.mixture.num_body_tokens_by_source @ known)
    return round(num_tokens * mean_mlm_probability(settings.masking.mlm_probability))


def _samples(task: MaskedLM) -> Iterator[CleanDocument]:
    """Yield documents of files in an order that the seed of the split draws."""
    corpus, listing = task.config.corpus, task.setup.text.listing
    if listing is None:
        return
    files = [(listed.source, file) for listed in listing.sources for file in listed.files]
    # A corpus of few files gives all its samples from one.
    most_per_file = 1 if len(files) >= NUM_SAMPLES else NUM_SAMPLES
    order = permute(np.arange(len(files)), len(files), key(corpus.split_seed, SAMPLE_STREAM))
    for source, file in (files[number] for number in order):
        reader = SourceReader(source.config, corpus.cleaning, corpus.markdown, corpus.languages)
        documents = (
            event
            for event in reader.read_file(file, Tally())
            if isinstance(event, CleanDocument)
            and len(event.text) >= max(corpus.min_characters, 1)
            and event.recognition.probability >= LEAST_PROBABILITY
        )
        yield from islice(documents, most_per_file)


def _measure_steps(task: Task, accelerator: Accelerator, progress: Progress) -> list[float]:
    """Take a few real steps, and return the seconds of each."""
    learner, state, seconds = prepare_learner(task, accelerator), TrainState(), []
    task = fit_micro_batch(learner, task, state.step, progress.say)  # as a run does first
    steps = range(MEASURED_STEPS)
    for _ in progress.under_bar(steps, total=len(steps), unit="step", what="measuring"):
        started = time.monotonic()
        step = agree(accelerator, task, state.step)
        task = take_step(learner, task, state, step, progress.say).task
        seconds.append(time.monotonic() - started)
    return seconds


def _show_measured(
    task: MaskedLM, seconds: list[float], peak_bytes: int, progress: Progress
) -> None:
    seconds_per_step = float(np.median(seconds[WARMUP_STEPS:]))
    plan = task.plan
    tokens_per_step = plan.phases[plan.locate(WARMUP_STEPS)[0]].tokens_per_step
    seconds_per_token = seconds_per_step / tokens_per_step
    num_tokens = plan.total(plan.max_steps, lambda phase: phase.tokens_per_step)
    duration = timedelta(seconds=round(seconds_per_token * num_tokens))
    finish = datetime.now() + duration
    progress.result(
        f"measured    {tokens_per_step / seconds_per_step:,.0f} tokens/s, {seconds_per_step:.2f} s "
        f"per step (median of {len(seconds) - WARMUP_STEPS}), peak memory {peak_bytes / 1e9:.2f} GB"
    )
    progress.result(
        f"finish      {tqdm.format_interval(duration.total_seconds())} of training without "
        f"evaluations: {finish:%Y-%m-%d %H:%M} if started now"
    )
    for line in phase_table(task.config, plan, seconds_per_token):
        progress.result(f"{'':<12}{line}")


def _excerpt(text: str) -> str:
    if len(text) > SAMPLE_CHARACTERS:
        text = text[:SAMPLE_CHARACTERS].rstrip() + " ..."
    return "\n".join(f"  {line}" for line in text.splitlines())
