"""The estimate of training's memory, beside all tensors at their most in a few steps.

On a CPU, PyTorch's profiler counts the bytes of tensors, because a process also holds libraries and
memory that was freed.
"""

from interleaved import run_apart
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, table, write_json

NUM_STEPS = 4


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=32)
    arguments.add_number("--micro-batch-size", 16, "sequences that are computed at once")
    arguments.add_argument(
        "--checkpointing", action="store_true", help="compute activations of layers twice"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            max_steps=NUM_STEPS,
            num_train_characters=characters_for(NUM_STEPS * options.batch_size * options.length),
        )
        result = run_apart(
            "memory_steps:measure", setting, options.micro_batch_size, options.checkpointing
        )
    estimated = sum(result["estimated"].values())
    print(
        f"{options.model}, {options.precision}, {result['attention']} attention, "
        f"{options.batch_size} x {options.length} in micro batches of {options.micro_batch_size}"
    )
    rows = [[part, megabytes(size)] for part, size in result["estimated"].items()]
    rows += [["estimated", megabytes(estimated)], ["allocated", megabytes(result["allocated"])]]
    print(table(["part", "bytes"], rows))
    print(f"ratio {estimated / result['allocated']:.2f}")
    write_json(options.json, benchmark="memory_estimate", **result)


if __name__ == "__main__":
    main(benchmark)
