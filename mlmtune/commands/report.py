"""`mlmtune report`: report whether the adaptation of finished runs helped."""

from pathlib import Path

from mlmtune.config import Config
from mlmtune.config_loading import load_config
from mlmtune.console import Console
from mlmtune.errors import ConfigError
from mlmtune.printable import counted
from mlmtune.report.findings import Report
from mlmtune.report.making import make_report
from mlmtune.report.runs import FinishedRun
from mlmtune.report.writing import write_report
from mlmtune.training.run_dir import RESOLVED_CONFIG


def report_on(
    runs: list[FinishedRun], overrides: list[str], output: Path | None, console: Console
) -> Report:
    """Make a report on runs, write it, and print the verdicts.

    Args:
        runs: The finished runs.
        overrides: Settings that override those of the first run; only `evaluation.*`.
        output: The folder to write to; the default is that of the run, or `report` for several.
        console: Shows the progress; prints the verdicts.

    Raises:
        MlmtuneError: See `make_report` and `write_report`.
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
    return report


def with_overrides(run: FinishedRun, overrides: list[str]) -> Config:
    """Return the config of a run with other settings of what is measured.

    Raises:
        ConfigError: An override is wrong, or is not a setting of `evaluation`.
    """
    for override in overrides:
        if not override.startswith("evaluation."):
            raise ConfigError(
                f"{override}: a run is measured as it was trained; only evaluation.* can be changed"
            )
    return load_config(run.path / RESOLVED_CONFIG, overrides)
