"""Masking: samples per second of mlmtune's collator against transformers', by turns in one run.

`collator` masks sequences in memory; `batch` also reads them from the store or the data set. The
last line gives the share of a training step that chunks and masks take together.
"""

import statistics
from dataclasses import replace

from interleaved import Block, Child, interleave, run_apart, summary
from options import CommandLine, Setting, main, setting_for, workspace
from report import table, write_json

SHARE_BATCH_SIZE = 16
"""Sequences in the training step whose share is measured: the package's default."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=64)
    arguments.add_rounds(rounds=7, steps=30, warmup=5)
    arguments.add_number("--training-steps", 3, "steps that the share of masking is taken from")
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    peers = run_apart("peer:strategies")
    of_both = [name for name in run_apart("ours:strategies") if name in peers]
    results = {}
    with workspace() as folder:
        setting = setting_for(options, folder)
        for strategy in of_both:
            for name, assembled in (("collator", False), ("batch", True)):
                with (
                    Child("ours:Masking", setting, strategy, assembled) as ours,
                    Child("peer:Masking", setting, strategy, assembled) as peer,
                ):
                    sides = {"ours": ours, "peer": peer}
                    blocks = interleave(sides, options.rounds, options.steps, options.warmup)
                results[f"{strategy}, {name}"] = summary(blocks)
        share = share_of_a_step(
            replace(setting, batch_size=SHARE_BATCH_SIZE, max_steps=4 * options.training_steps),
            options.training_steps,
        )
    print(f"{options.batch_size} x {options.length}, {machine['device']}")
    rows = [
        [
            name,
            f"{result['sides']['ours']['rate']:,.0f}",
            f"{result['sides']['peer']['rate']:,.0f}",
            f"{result['ratio']:.1f}",
        ]
        for name, result in results.items()
    ]
    print(table(["samples/s", "ours", "peer", "ratio"], rows))
    print(
        f"chunks and masks take {share:.2%} of our training step ({options.model}, "
        f"{options.precision}, {SHARE_BATCH_SIZE} x {options.length})"
    )
    write_json(
        options.json,
        benchmark="collator",
        model=options.model,
        **setting.to_json(),
        rounds=options.rounds,
        steps=options.steps,
        strategies=results,
        share_of_training_step=share,
        machine=machine,
    )


def share_of_a_step(setting: Setting, num_steps: int) -> float:
    """Return the share of a training step that making its batch takes; a median of three."""
    shares = []
    with Child("ours:Training", setting) as side:
        side.run(1)
        for _ in range(3):
            batches: Block = side.call("prepare_batches", num_steps)
            shares.append(batches.seconds / side.run(num_steps).seconds)
    return statistics.median(shares)


if __name__ == "__main__":
    main(benchmark)
