"""The alphas and the folder of `mlmtune merge`, checked before any library is imported."""

from dataclasses import dataclass
from pathlib import Path

from mlmtune.errors import ConfigError
from mlmtune.locations import MERGED_FOLDER, expand_home

DEFAULT_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class MergePlan:
    """What is measured and where the model is written.

    Attributes:
        alphas: The alphas that are measured, rising, with 0 and 1.
        given: The alpha that is written; None to choose one.
        target: The folder that the model is written to.
    """

    alphas: tuple[float, ...]
    given: float | None
    target: Path


def plan_merge(
    runs: list[Path],
    others: list[Path],
    alphas: str | None,
    alpha: float | None,
    out: Path | None,
) -> MergePlan:
    """Check the options of the command.

    Args:
        runs: The directories of the runs.
        others: Those of the runs that are compared with them.
        alphas: The value of `--alphas`: numbers separated by commas.
        alpha: The value of `--alpha`.
        out: The value of `--out`; the default is `merged` in the directory of the run, or here for
            several runs.

    Raises:
        ConfigError: An alpha is not a number from 0 to 1, a run is given twice, or the target
            exists.
    """
    given = [*runs, *others]
    for number, run in enumerate(given):
        if run.resolve() in map(Path.resolve, given[:number]):
            raise ConfigError(f"{run} is given twice; give each run once")
    if alphas is not None and alpha is not None:
        raise ConfigError(
            "--alphas and --alpha contradict each other; give a grid to choose from, or the alpha "
            "that is written"
        )
    if alpha is not None:
        measured = {_checked("--alpha", str(alpha))}
    elif alphas is not None:
        measured = {_checked("--alphas", part) for part in alphas.split(",")}
    else:
        measured = {*DEFAULT_ALPHAS}
    target = expand_home(out) if out else (runs[0] if len(runs) == 1 else Path()) / MERGED_FOLDER
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already; delete it, or give another folder by --out")
    return MergePlan(tuple(sorted({0.0, 1.0} | measured)), alpha, target)


def _checked(option: str, written: str) -> float:
    try:
        alpha = float(written)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:  # also false for nan
        raise ConfigError(
            f"{option}: {written.strip() or 'an empty value'} is not a number from 0 (the base) to "
            "1 (the adapted model)"
        )
    return abs(alpha)  # -0.0 is 0, too
