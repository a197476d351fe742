"""Loss curves: mlmtune and the peer's loop from the same weights on the same chunks, seed by seed.

Same batch size, learning rate, linear schedule without warmup, weight decay, and no clipping. Each
finished curve is a file in --results, and is not computed again. The final validation loss of both
is measured by the same evaluator on the same masks.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from interleaved import SideFailed, run_apart
from mlmtune.files import write_text
from options import CommandLine, Setting, main, setting_for, workspace
from report import table, write_json

SIDES = ("ours", "peer")
START_SEED = 0
"""The seed of the head's weights, from which both sides start."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model()
    arguments.add_training()
    arguments.add_number("--steps", 300, "optimizer steps of a curve")
    arguments.add_number("--seeds", 3, "curves of each side")
    arguments.add_number("--window", 50, "steps that a line of the table averages")
    arguments.add_argument(
        "--learning-rate", type=float, default=5e-4, metavar="X", help="peak; default %(default)s"
    )
    arguments.add_argument(
        "--results", type=Path, required=True, metavar="FOLDER", help="folder of finished curves"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            num_train_characters=None,
            num_validation_characters=None,
            max_steps=options.steps,
        )
        model = run_apart("models:with_head", setting.model, folder, START_SEED)
        curves = all_curves(options, replace(setting, model=model))
    print(
        f"{options.model}, {options.precision}, {options.batch_size} x {options.length}, rate "
        f"{options.learning_rate}, {options.seeds} seeds, {machine['device']}; mean +- deviation"
    )
    print(table(["loss", *SIDES, "ours - peer"], rows(curves, options.steps, options.window)))
    write_json(
        options.json,
        benchmark="curves",
        model=options.model,
        learning_rate=options.learning_rate,
        **setting.to_json(),
        curves=curves,
        machine=machine,
    )


def all_curves(options: argparse.Namespace, setting: Setting) -> dict[str, list[dict[str, Any]]]:
    """Return each side's curves by seed; missing ones are computed and kept."""
    options.results.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(options.seeds):
        for side in SIDES:
            path = options.results / f"{side}-{seed}.json"
            curves[side].append(kept_or_computed(path, options, replace(setting, seed=seed), side))
    return curves


def kept_or_computed(
    path: Path, options: argparse.Namespace, setting: Setting, side: str
) -> dict[str, Any]:
    """Read one curve, or compute it.

    Raises:
        SideFailed: The file holds a curve of other settings.
    """
    described = {
        "model": options.model,
        "learning_rate": options.learning_rate,
        "num_train_bytes": setting.train.stat().st_size,
        **setting.to_json(),
    }
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["setting"] != described:
            raise SideFailed(f"{path} is a curve of other settings; give another --results")
        return kept
    print(f"computing {path.stem}", flush=True)
    curve = run_apart("curve_sides:run", side, setting, options.learning_rate)
    made = {"setting": described, **asdict(curve)}
    write_text(path, json.dumps(made) + "\n")
    return made


def rows(curves: dict[str, list[dict[str, Any]]], num_steps: int, window: int) -> list[list[str]]:
    """Return the table: a line for each window of steps, and one for validation."""
    lines = []
    for first in range(0, num_steps, window):
        last = min(first + window, num_steps)
        means = {
            side: [statistics.fmean(curve["losses"][first:last]) for curve in of_side]
            for side, of_side in curves.items()
        }
        lines.append([f"steps {first + 1} to {last}", *compared(means)])
    validation = {
        side: [curve["validation_loss"] for curve in of_side] for side, of_side in curves.items()
    }
    return [*lines, ["validation", *compared(validation)]]


def compared(values: dict[str, list[float]]) -> list[str]:
    """Return mean and deviation over the seeds of each side, and the difference of the means."""
    difference = statistics.fmean(values["ours"]) - statistics.fmean(values["peer"])
    return [*(mean_and_deviation(values[side]) for side in SIDES), f"{difference:+.4f}"]


def mean_and_deviation(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} +- {deviation:.4f}"


if __name__ == "__main__":
    main(benchmark)
