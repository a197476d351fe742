"""`mlmtune train`: adapt a masked language model, and report whether it helped."""

from pathlib import Path
from typing import Any

from mlmtune.commands.report import report_on
from mlmtune.commands.training import train_and_push
from mlmtune.config import Config
from mlmtune.console import Console
from mlmtune.errors import explain
from mlmtune.report.runs import read_finished_run
from mlmtune.shell import own_command
from mlmtune.training.masked_lm import build_masked_lm
from mlmtune.training.outcome import outcome
from mlmtune.training.run_options import RunOptions


def adapt(settings: Config, options: RunOptions, *, has_report: bool) -> None:
    """Train a masked language model, report on the run, and push it if the config says so.

    Raises:
        MlmtuneError: See `train_and_push`. A failure of the report is only announced.
    """

    def conclude(run: Path, results: dict[str, Any] | None, console: Console) -> None:
        # A run that was complete already lacks its report if it was killed while making it.
        if results is None and (run / "report.html").is_file():
            return
        is_reported = has_report and _report_on_finished(run, console)
        if results is not None and not is_reported:
            console.result(f"{run.resolve().name}: {outcome(results)}")

    train_and_push(settings, options, build_masked_lm, conclude)


def _report_on_finished(run: Path, console: Console) -> bool:
    """Report on a run that has just finished; a failure is announced and does not undo the run.

    Returns:
        Whether the report was made.
    """
    try:
        report_on([read_finished_run(run)], [], None, console)
    except Exception as error:
        console.say(
            f"there is no report ({explain(error)[0]}); {own_command('report', run)} makes it"
        )
        return False
    return True
