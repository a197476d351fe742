"""Quality in time: training seconds until a side reaches the peer's final validation perplexity.

`peer` and `engine` have the hyperparameters of run_mlm_no_trainer.py and start from the same
weights; `engine` shows what our loop gains alone. `recommended` has our recommended settings and
starts from the same model. All are measured by one evaluator on the same masks, which is not timed.

The sides of a seed work by turns. Finished seeds are kept in --results and not computed again.
"""

import argparse
import json
import math
import statistics
from bisect import bisect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from interleaved import Child, SideFailed, interleave, run_apart
from mlmtune.files import write_text
from options import CommandLine, Setting, main, setting_for, workspace
from report import spread, table, write_json

Curve = list[dict[str, float]]
"""Points with `step`, `seconds` and `loss`, from step 0 on."""

SIDES = ("peer", "engine", "recommended")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""The shares of the peer's seconds after which the curves are shown."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=8)
    arguments.add_number("--steps", 100, "optimizer steps of the peer and of the engine")
    arguments.add_number("--recommended-steps", 50, "optimizer steps with what we recommend")
    arguments.add_number("--every", 5, "steps in a turn, after which a side is measured")
    arguments.add_number("--chunks", 64, "validation sequences to measure on")
    arguments.add_number("--seeds", 3, "curves of each side")
    arguments.add_argument(
        "--learning-rate", type=float, default=5e-5, metavar="X",
        help="peak of the peer and of the engine; default %(default)s, as in the script",
    )  # fmt: skip
    arguments.add_argument(
        "--start", type=Path, metavar="FOLDER", help="a model of your own, instead of --model"
    )
    arguments.add_argument(
        "--results", type=Path, required=True, metavar="FOLDER", help="folder of finished seeds"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    options.results.mkdir(parents=True, exist_ok=True)
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            num_train_characters=None,
            num_validation_characters=None,
            max_steps=options.steps,
            max_chunks=options.chunks,
        )
        if options.start is not None:
            setting = replace(setting, model=options.start.resolve())
        seeds = [
            kept_or_computed(options, replace(setting, seed=seed)) for seed in range(options.seeds)
        ]
        settings = described(options, setting)
    print(
        f"{options.start or options.model}, {options.precision}, {options.batch_size} x "
        f"{options.length}, {options.learning_rate:g} for the peer, {machine['device']}; medians "
        f"of {options.seeds} seeds, with the range"
    )
    columns = "steps", "seconds", "final perplexity", "as good as the peer", "after", "ratio"
    print(table(["side", *columns], results(seeds)))
    print("\nperplexity after a share of the peer's seconds")
    print(table(["share", *SIDES], perplexities(seeds)))
    write_json(
        options.json,
        benchmark="quality",
        **settings,
        ratios={side: [ratio(curves["peer"], curves[side]) for curves in seeds] for side in SIDES},
        seeds=seeds,
        machine=machine,
    )


def described(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Return what finished curves depend on."""
    names = ("model", "learning_rate", "steps", "recommended_steps", "every")
    return {
        **{name: getattr(options, name) for name in names},
        "start": options.start and options.start.name,
        "num_train_bytes": setting.train.stat().st_size,
        **setting.to_json(),
    }


def kept_or_computed(options: argparse.Namespace, setting: Setting) -> dict[str, Curve]:
    """Read the curves of a seed by side, or compute them.

    Raises:
        SideFailed: The file holds curves of other settings.
    """
    path, settings = options.results / f"seed-{setting.seed}.json", described(options, setting)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["setting"] != settings:
            raise SideFailed(f"{path} has curves of other settings; give another --results")
        curves: dict[str, Curve] = kept["curves"]
        return curves
    print(f"computing {path.name}", flush=True)
    start = run_apart("models:with_head", setting.model, setting.workspace, setting.seed)
    settings_of = {
        "peer": replace(setting, model=start),
        "engine": replace(setting, model=start),
        "recommended": replace(setting, max_steps=options.recommended_steps),
    }
    with ExitStack() as stack:
        sides = {}
        for name, of_side in settings_of.items():
            child = Child("quality_sides:Side", name, of_side, options.learning_rate)
            sides[name] = stack.enter_context(child)
        longest = max(options.steps, options.recommended_steps)
        interleave(sides, math.ceil(longest / options.every), options.every, 0)
        curves = {name: side.facts()["curve"] for name, side in sides.items()}
    write_text(path, json.dumps({"setting": settings, "curves": curves}) + "\n")
    return curves


def seconds_to(curve: Curve, loss: float) -> float:
    """Return the seconds after which a curve first reached a loss, between its points by line.

    It is infinite if it never did.
    """
    if curve[0]["loss"] <= loss:
        return 0.0
    for before, after in pairwise(curve):
        if after["loss"] <= loss:
            share = (before["loss"] - loss) / (before["loss"] - after["loss"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return math.inf


def target(peer: Curve, side: Curve) -> float:
    """Return the peer's final loss, or the side's if that is higher: one that both reach."""
    return max(peer[-1]["loss"], side[-1]["loss"])


def ratio(peer: Curve, side: Curve) -> float:
    """Return how many times the seconds of a side the peer needed for the same loss.

    It is 0 for a side that ended no better than it started.
    """
    loss = target(peer, side)
    if side[-1]["loss"] >= side[0]["loss"]:
        return 0.0
    # Nothing is measured during the first turn, and a new head may start better than a peer ends.
    return seconds_to(peer, loss) / max(seconds_to(side, loss), side[1]["seconds"])


def loss_after(curve: Curve, seconds: float) -> float | None:
    """Return the loss after some seconds, between points by line; None after the curve's end."""
    place = bisect([point["seconds"] for point in curve], seconds)
    if place == len(curve):
        last = curve[-1]
        return last["loss"] if seconds == last["seconds"] else None
    before, after = curve[place - 1], curve[place]
    share = (seconds - before["seconds"]) / (after["seconds"] - before["seconds"])
    return before["loss"] + share * (after["loss"] - before["loss"])


def results(seeds: Sequence[dict[str, Curve]]) -> list[list[str]]:
    """Return a line for each side: its end, and its way to the peer's final loss."""
    lines = []
    for side in SIDES:
        pairs = [(curves["peer"], curves[side]) for curves in seeds]
        ends = [curve[-1] for _, curve in pairs]
        num_reached = sum(
            end["loss"] <= peer[-1]["loss"] for (peer, _), end in zip(pairs, ends, strict=True)
        )
        reached = [seconds_to(curve, target(peer, curve)) for peer, curve in pairs]
        lines.append(
            [
                side,
                f"{ends[0]['step']}",
                f"{statistics.median(end['seconds'] for end in ends):.0f}",
                with_range([math.exp(end["loss"]) for end in ends]),
                f"{num_reached} of {len(seeds)}",
                f"{statistics.median(reached):.1f} s",
                with_range([ratio(peer, curve) for peer, curve in pairs]),
            ]
        )
    return lines


def with_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({spread(values)})"


def perplexities(seeds: Sequence[dict[str, Curve]]) -> list[list[str]]:
    """Return a line for each share of the peer's seconds: the median perplexities by then."""
    lines = []
    for share in (0.0, *SHARES):
        cells = []
        for side in SIDES:
            losses = [
                loss_after(curves[side], share * curves["peer"][-1]["seconds"]) for curves in seeds
            ]
            going = [loss for loss in losses if loss is not None]
            ended = len(going) < len(losses)
            cells.append("ended" if ended else f"{math.exp(statistics.median(going)):.2f}")
        lines.append([f"{share:.0%}", *cells])
    return lines


if __name__ == "__main__":
    main(benchmark)
