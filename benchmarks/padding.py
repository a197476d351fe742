"""Padding: tokens per second of training on lines of uneven length, without counting padding.

In `ours`, lines share rows; in `padded` they are padded to the longest of a batch, and the rest is
the same. The peer pads each line to the length of a sequence (`line_by_line` of transformers'
examples).
"""

from interleaved import Child, interleave, run_apart, summary
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, spread, table, write_json


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=32)
    arguments.add_training()
    arguments.add_rounds(rounds=5, steps=3, warmup=1)
    arguments.set_defaults(length=96)
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    num_steps = options.warmup + options.rounds * options.steps
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            max_steps=num_steps,
            num_train_characters=characters_for(num_steps * options.batch_size * options.length),
        )
        run_apart("texts:split_lines", setting.train)
        with (
            Child("ours:LineTraining", setting, True) as ours,
            Child("ours:LineTraining", setting, False) as padded,
            Child("peer:LineTraining", setting) as peer,
        ):
            sides = {"ours": ours, "padded": padded, "peer": peer}
            blocks = interleave(sides, options.rounds, options.steps, options.warmup)
            facts = {name: side.facts() for name, side in sides.items()}
    result, to_padded = summary(blocks), summary(blocks, to="padded")
    rows = [
        [
            name,
            f"{measured['rate']:,.0f}",
            f"{facts[name]['fill']:.1%}",
            megabytes(facts[name]["peak_memory_bytes"]),
        ]
        for name, measured in result["sides"].items()
    ]
    print(f"{options.model}, {options.precision}, {options.batch_size} lines of {options.length}")
    print(table(["side", "tokens/s", "fill", "peak memory"], rows))
    for name, compared in (("padded", to_padded), ("peer", result)):
        print(f"{compared['ratio']:.2f} x {name} (rounds {spread(compared['ratios']['ours'])})")
    write_json(
        options.json,
        benchmark="padding",
        model=options.model,
        **setting.to_json(),
        rounds=options.rounds,
        steps=options.steps,
        **result,
        ratios_to_padded=to_padded["ratios"],
        facts=facts,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
