"""Models against their bases on the same masked tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import LARGEST_EXPONENT
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.report.bootstrap import estimate, resampled, sums_by_unit
from mlmtune.report.findings import Change, Estimate, Measurement
from mlmtune.tokens.chunking import ChunkView
from mlmtune.training.caveats import FEWEST_DOCUMENTS


def units_of(scores: TokenScores, view: ChunkView) -> tuple[NDArray[np.int64], bool]:
    """(n,) what each token is resampled with; whether that is its document, and not its chunk."""
    documents = view.store.documents_at(scores.positions)
    if len(np.unique(documents)) >= FEWEST_DOCUMENTS:
        return documents, True
    return scores.chunks, False


def compare(
    scores: Mapping[str, TokenScores],
    bases: Mapping[str, str | None],
    units: NDArray[np.int64],
    which: NDArray[np.bool_] | None = None,
    known_text: KnownText | None = None,
) -> tuple[Measurement, ...]:
    """Measure models that were asked for the same tokens.

    Args:
        scores: of each model, by its name.
        bases: the name of what each model is compared with; None for a base, or where it is not
            among them.
        units: (n,) what the tokens are resampled by.
        which: (n,) the tokens to look at; all where None.
        known_text: how much of the text the models' tokenizer knows; None for a part of a text.

    Returns:
        A measurement for each model, in their order.
    """
    everything = np.ones(len(units), dtype=bool) if which is None else which
    names = list(scores)
    values = [np.ones(int(everything.sum()))]
    for name in names:
        of_model = scores[name]
        values += [
            of_model.losses[everything],
            of_model.is_first[everything].astype(np.float64),
            of_model.is_in_five[everything].astype(np.float64),
        ]
    some = scores[names[0]]
    num_masked_tokens = len(np.unique(some.positions[everything]))
    by_unit = sums_by_unit(units[everything], values)
    means = by_unit.sum(axis=0) / by_unit[:, 0].sum()
    draws = np.empty((0, by_unit.shape[1]))
    if len(by_unit) > 1:
        sums = resampled(by_unit)
        draws = sums / sums[:, :1]

    measured = []
    for number, name in enumerate(names):
        loss, first, five = (estimate(float(means[c]), draws[:, c]) for c in _columns(number))
        change = None
        if (base := bases[name]) in scores:
            others = _columns(names.index(str(base)))
            change = Change(
                *(
                    estimate(float(means[c] - means[o]), draws[:, c] - draws[:, o])
                    for c, o in zip(_columns(number), others, strict=True)
                )
            )
        of_whole_text: dict[str, Any] = {"perplexity_per_word": None, "perplexity_per_byte": None}
        if known_text is not None:
            words, num_bytes = known_text.words_per_token, known_text.bytes_per_token
            of_whole_text = {
                "perplexity_per_word": exponential(loss, 1 / words) if words else None,
                "perplexity_per_byte": exponential(loss, 1 / num_bytes) if num_bytes else None,
                "unknown_token_share": known_text.unknown_token_share,
                "unknown_byte_share": known_text.unknown_byte_share,
            }
        measured.append(
            Measurement(
                model=name,
                num_masked_tokens=num_masked_tokens,
                num_predictions=len(values[0]),
                loss=loss,
                perplexity=exponential(loss, 1.0),
                accuracy=first,
                accuracy_top5=five,
                change=change,
                **of_whole_text,
            )
        )
    return tuple(measured)


def _columns(number: int) -> range:
    """Loss, first, five of a model, behind the column of ones."""
    return range(1 + 3 * number, 4 + 3 * number)


def exponential(loss: Estimate, factor: float) -> Estimate:
    """exp(factor * loss); what does not fit a float is None."""

    def exp(nats: float) -> float | None:
        return float(np.exp(nats * factor)) if nats * factor < LARGEST_EXPONENT else None

    value = None if loss.value is None else exp(loss.value)
    if value is None or loss.interval is None:
        return Estimate(value)
    low, high = (exp(bound) for bound in loss.interval)
    return Estimate(value, None if low is None or high is None else (low, high))
