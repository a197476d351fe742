"""The phases of a run as a table, before and while it is trained."""

from collections.abc import Iterator

from tqdm import tqdm

from mlmtune.config import Config, RateSchedule
from mlmtune.corpus.sources import source_name
from mlmtune.numbers import share
from mlmtune.tables import table
from mlmtune.training.plan import Phase, Plan

HEADER = ["phase", "steps", "tokens", "epochs", "batch", "learning rate", "masks", "text"]


def phase_table(
    config: Config, plan: Plan, seconds_per_token: float | None = None
) -> Iterator[str]:
    """Yield a line for each phase below a header; none for a run without phases.

    Args:
        config: The config of the run.
        plan: Its plan.
        seconds_per_token: The measured time, which adds when each phase ends.
    """
    if not config.phases:
        return
    rows = [[*HEADER, *(["ends after"] if seconds_per_token is not None else [])]]
    num_tokens = 0.0
    for phase, settings in zip(plan.phases, config.by_phase, strict=True):
        num_tokens += phase.num_steps * phase.tokens_per_step
        length, strategy = settings.chunking.chunk_length, settings.masking.strategy
        row = [
            phase.name,
            f"{phase.num_steps:,}",
            f"{phase.num_steps * phase.tokens_per_step:,.0f}",
            f"{phase.num_epochs:.2f}",
            f"{phase.global_batch_size:,} x {length:,}",
            _rates(phase),
            f"{strategy} {_masking(settings.masking.mlm_probability)}",
            ", ".join(_sources(config, settings)),
        ]
        if seconds_per_token is not None:
            row.append(tqdm.format_interval(seconds_per_token * num_tokens))
        rows.append(row)
    yield from table(rows, left=(0, len(HEADER) - 1))


def _rates(phase: Phase) -> str:
    """Return the learning rates of the first and the last step, and how one becomes the other."""
    first, last = phase.learning_rate_at(0), phase.learning_rate_at(phase.num_steps - 1)
    ends = f"{first:.1e} to {last:.1e}" if first != last else f"{first:.1e}"
    return f"{ends}, {phase.optimizer.schedule}"


def _masking(rate: float | RateSchedule) -> str:
    if isinstance(rate, RateSchedule):
        return f"{share(rate.start)} to {share(rate.end)}"
    return share(rate)


def _sources(config: Config, settings: Config) -> Iterator[str]:
    """Yield the sources that a phase sees, with their weights where it gives some."""
    if settings.corpus == config.corpus:
        yield "all"
        return
    for source in settings.corpus.sources:
        name = source_name(source)
        if source.replay is not None:
            yield f"{name} (replay {source.replay:g})"
        elif source.weight:
            yield name if source.weight == 1.0 else f"{name} x {source.weight:g}"
