"""Memory: the most that a few training steps hold, each side in a process of its own.

It is device memory on a GPU, else the resident set of the whole process, libraries included.
"""

from interleaved import Child, run_apart
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, table, write_json

SIDES = ("ours", "peer")


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=64)
    arguments.add_training()
    arguments.add_number("--steps", 4, "training steps")
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    measured = {}
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            max_steps=options.steps,
            num_train_characters=characters_for(
                options.steps * options.batch_size * options.length
            ),
        )
        for name in SIDES:  # one after the other: both at once might not fit
            with Child(f"{name}:Training", setting) as side:
                before = side.facts()["peak_memory_bytes"]
                side.run(options.steps)
                peak = side.facts()["peak_memory_bytes"]
            measured[name] = {"before_training_bytes": before, "peak_bytes": peak}
    ratio = measured["ours"]["peak_bytes"] / measured["peer"]["peak_bytes"]
    print(
        f"{options.model}, {options.precision}, {options.batch_size} x {options.length}, "
        f"{options.steps} steps, {machine['device']}"
    )
    rows = [
        [name, megabytes(side["before_training_bytes"]), megabytes(side["peak_bytes"])]
        for name, side in measured.items()
    ]
    print(table(["side", "peak before training", "peak"], rows))
    print(f"ratio {ratio:.2f} (less is better)")
    write_json(
        options.json,
        benchmark="memory",
        model=options.model,
        **setting.to_json(),
        steps=options.steps,
        ratio=ratio,
        sides=measured,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
