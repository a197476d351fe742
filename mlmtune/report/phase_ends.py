"""The phases of runs: where each ends on the curves, and what was measured there."""

from collections.abc import Iterator, Sequence
from typing import Any

from mlmtune.numbers import nats, perplexity, share
from mlmtune.report.charts import Band
from mlmtune.report.findings import Run

HEADER = ["phase", "steps", "perplexity", "forgetting, nats", "nDCG at 10", "pairs"]


def bands(runs: Sequence[Run]) -> tuple[Band, ...]:
    """Return the phases as parts of the axis of steps; none unless all runs have the same ones."""
    of_runs = {tuple(_bands(run)) for run in runs}
    return of_runs.pop() if len(of_runs) == 1 else ()


def _bands(run: Run) -> Iterator[Band]:
    begin = 0
    for name, end in _ends(run).items():
        yield Band(name, begin, end)
        begin = end


def _ends(run: Run) -> dict[str, int]:
    """Return the last step of each phase that was logged, by its name."""
    return {record["phase"]: record["step"] for record in run.steps if "phase" in record}


def phase_table(run: Run) -> list[list[str]]:
    """Return the header and a row for each phase of a run, with what was measured at its end.

    Columns without any measurement are left out; a run without phases has no rows.
    """
    ends, rows, begin = _ends(run), [HEADER], 0
    if not ends:
        return []
    measured = {record["step"]: record for record in run.evaluations}
    before = measured.get(0, {})
    for name, end in ends.items():
        rows.append([name, f"{begin + 1:,} to {end:,}", *_cells(measured.get(end, {}), before)])
        begin = end
    shown = [number for number, cells in enumerate(zip(*rows[1:], strict=True)) if any(cells)]
    return [[row[number] for number in shown] for row in rows]


def _cells(at_end: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
    loss, loss_before = (record.get("eval_general_loss") for record in (at_end, before))
    ndcg, pairs = (at_end.get(f"eval_{name}") for name in ("retrieval_ndcg_at_10", "pair_accuracy"))
    yield perplexity(at_end["eval_perplexity"]) if at_end else ""
    yield nats(loss - loss_before) if loss is not None and loss_before is not None else ""
    yield share(ndcg) if ndcg is not None else ""
    yield share(pairs) if pairs is not None else ""
