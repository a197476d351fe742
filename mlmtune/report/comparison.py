"""Models compared with their bases on the same masked tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlmtune.evaluation.bootstrap import resampled, sums_by_unit
from mlmtune.evaluation.known_text import KnownText
from mlmtune.evaluation.perplexity import LARGEST_EXPONENT
from mlmtune.evaluation.scoring import TokenScores
from mlmtune.report.findings import Change, Estimate, Measurement
from mlmtune.tokens.chunking import ChunkView
from mlmtune.training.caveats import FEWEST_DOCUMENTS


def units_of(scores: TokenScores, view: ChunkView) -> tuple[NDArray[np.int64], bool]:
    """Return what tokens are resampled by: their documents, or their chunks if those are too few.

    Args:
        scores: The scores of n masked tokens.
        view: The chunks that the tokens are in.

    Returns:
        (n,) the document or the chunk of each token, and whether it is the document.
    """
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
    """Measure models that predicted the same masked tokens.

    Args:
        scores: The scores of n tokens, by the name of the model.
        bases: The name of what each model is compared with; None for a base model. A name that is
            not among the models counts as None.
        units: (n,) What the tokens are resampled by; see `units_of`.
        which: (n,) The tokens to measure; all of them if None.
        known_text: How much of the text the models' tokenizer knows; None for a part of a text.

    Returns:
        A measurement for each model, in their order.
    """
    chosen = np.ones(len(units), dtype=bool) if which is None else which
    numbers = {name: number for number, name in enumerate(scores)}
    positions = next(iter(scores.values())).positions[chosen]
    means, draws = _means_and_draws(list(scores.values()), units, chosen)

    measured = []
    for name, number in numbers.items():
        loss, first, five = Estimate.of_each(means[number], draws[:, number])
        change, base = None, bases[name]
        if base in numbers:
            # The draws are the same for both models, so the difference is taken draw by draw.
            other = numbers[base]
            differences = draws[:, number] - draws[:, other]
            change = Change(*Estimate.of_each(means[number] - means[other], differences))
        measured.append(
            Measurement(
                model=name,
                num_masked_tokens=len(np.unique(positions)),
                num_predictions=len(positions),
                loss=loss,
                perplexity=exponential(loss, 1.0),
                accuracy=first,
                accuracy_top5=five,
                change=change,
                **_of_whole_text(loss, known_text),
            )
        )
    return tuple(measured)


def _means_and_draws(
    scores: Sequence[TokenScores], units: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average loss, first and five of K models over the chosen tokens, and over each resample.

    Returns:
        (K, 3) means and (NUM_RESAMPLES, K, 3) draws; there are no draws of a single unit.
    """
    values = [np.ones(int(chosen.sum()))]
    for of_model in scores:
        fields = (of_model.losses, of_model.is_first, of_model.is_in_five)
        values += [field[chosen].astype(np.float64) for field in fields]
    by_unit = sums_by_unit(units[chosen], values)
    sums = resampled(by_unit) if len(by_unit) > 1 else np.empty((0, len(values)))
    means = by_unit.sum(axis=0) / by_unit[:, 0].sum()
    draws = sums / sums[:, :1]
    return means[1:].reshape(-1, 3), draws[:, 1:].reshape(-1, len(scores), 3)


def _of_whole_text(loss: Estimate, known_text: KnownText | None) -> dict[str, Any]:
    """Return the fields of a `Measurement` that only a whole text has."""
    if known_text is None:
        return {"perplexity_per_word": None, "perplexity_per_byte": None}
    return {
        "perplexity_per_word": perplexity_per(known_text.words_per_token, loss),
        "perplexity_per_byte": perplexity_per(known_text.bytes_per_token, loss),
        "unknown_token_share": known_text.unknown_token_share,
        "unknown_byte_share": known_text.unknown_byte_share,
    }


def perplexity_per(units_per_token: float, loss: Estimate) -> Estimate | None:
    """Return the perplexity per word or byte; None if a text has none that the tokenizer knows."""
    return exponential(loss, 1 / units_per_token) if units_per_token else None


def exponential(loss: Estimate, factor: float) -> Estimate:
    """Return exp(factor * loss); a value or an interval that does not fit a float is None."""

    def exp(nats: float) -> float | None:
        return float(np.exp(nats * factor)) if nats * factor < LARGEST_EXPONENT else None

    value = None if loss.value is None else exp(loss.value)
    if value is None or loss.interval is None:
        return Estimate(value)
    low, high = (exp(bound) for bound in loss.interval)
    return Estimate(value, None if low is None or high is None else (low, high))
