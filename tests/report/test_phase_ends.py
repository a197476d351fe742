"""The phases of runs in a report."""

from typing import Any

import pytest

from mlmtune.report.charts import Band
from mlmtune.report.findings import Run
from mlmtune.report.phase_ends import bands, phase_table


def run(phases: list[str], **measured: list[float]) -> Run:
    """A run of two steps per phase, measured before it and at the end of each phase."""
    steps = [
        {"step": number + 1, "loss": 1.0, "phase": phases[number // 2]}
        for number in range(2 * len(phases))
    ]
    evaluations: list[dict[str, Any]] = [
        {
            "step": 2 * number,
            **{f"eval_{name}": values[number] for name, values in measured.items()},
        }
        for number in range(len(phases) + 1)
    ]
    return Run("a", "runs/a", tuple(steps), tuple(evaluations), {}, {}, {}, "", {})


def test_a_row_has_what_was_measured_at_the_end_of_its_phase() -> None:
    made = run(
        ["stable", "decay"], perplexity=[9.0, 5.0, 4.0], general_loss=[2.0, 2.5, 2.25],
        retrieval_ndcg_at_10=[0.5, 0.25, 0.375],
    )  # fmt: skip
    assert phase_table(made) == [
        ["phase", "steps", "perplexity", "forgetting, nats", "nDCG at 10"],
        ["stable", "1 to 2", "5.00", "+0.500", "25.0%"],
        ["decay", "3 to 4", "4.00", "+0.250", "37.5%"],
    ]
    assert phase_table(run(["only"], perplexity=[9.0, 5.0]))[0] == ["phase", "steps", "perplexity"]


def test_curves_have_the_bands_that_all_runs_share() -> None:
    one, other = (run(names, perplexity=[9.0, 5.0, 4.0]) for names in (["a", "b"], ["a", "c"]))
    assert bands([one]) == bands([one, one]) == (Band("a", 0, 2), Band("b", 2, 4))
    assert bands([one, other]) == ()


@pytest.mark.parametrize("of", [bands, lambda runs: phase_table(runs[0])])
def test_a_run_without_phases_has_neither(of: Any) -> None:
    plain = Run("a", "runs/a", ({"step": 1, "loss": 1.0},), (), {}, {}, {}, "", {})
    assert not of([plain])
