"""Merging: the peak memory and the time of writing a model between two others.

Each side merges a run with its base in a process of its own, one side after the other. Memory is
the resident set beyond what the process held with its libraries imported, mapped files included.
`measured` is the whole command, which also measures models on text.
"""

from interleaved import Child, run_apart
from options import MODELS, CommandLine, main, workspace
from report import megabytes, table, write_json

SIDES = ("ours", "measured", "peer")


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument(
        "--model", choices=MODELS, default="bert-base", help="default %(default)s"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    measured = {}
    with workspace() as folder:
        base = run_apart("models:prepare", options.model, folder, None)
        run = run_apart("merging_sides:adapt", base, folder)
        size = sum(file.stat().st_size for file in (run / "model").glob("*.safetensors"))
        for name in SIDES:  # one after the other: both at once might not fit
            with Child(f"merging_sides:{name.title()}", base, run, folder / name) as side:
                before = side.facts()["peak_memory_bytes"]
                block = side.run(1)
                held = side.facts()["peak_memory_bytes"] - before
            measured[name] = {"bytes": held, "models": held / size, "seconds": block.seconds}
    print(f"{options.model}, {megabytes(size)} of weights, {machine['device']}")
    rows = [
        [name, megabytes(of["bytes"]), f"{of['models']:.2f}", f"{of['seconds']:.1f}"]
        for name, of in measured.items()
    ]
    print(table(["side", "peak memory", "in sizes of the model", "seconds"], rows))
    write_json(
        options.json,
        benchmark="merging",
        model=options.model,
        model_bytes=size,
        sides=measured,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
