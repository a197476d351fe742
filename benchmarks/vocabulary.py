"""Large vocabularies: memory and time of training steps, each side in a process of its own.

The model is a small encoder with random weights, so that the output layer is most of its work.
`dense` is our side with all logits of the masked positions at once.
"""

import statistics
from typing import Any

from interleaved import Child, run_apart
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, table, write_json

SIDES = {"ours": "ours:Training", "dense": "ours:DenseTraining", "peer": "peer:Training"}
VOCABULARIES = "30522,128000,256000"


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model()
    arguments.set_defaults(model="small")
    arguments.add_number("--steps", 3, "training steps that are measured, after one that is not")
    arguments.add_argument(
        "--vocabularies", default=VOCABULARIES, metavar="N,...", help="sizes; default %(default)s"
    )
    arguments.add_argument(
        "--sides", default=",".join(SIDES), metavar="NAME,...",
        help="leave out those that would not fit into memory; default %(default)s",
    )  # fmt: skip
    return arguments


def measure(side: str, setting: Any, num_steps: int) -> dict[str, float]:
    """Take steps in a new process, and return its peak memory and its median seconds per step."""
    with Child(SIDES[side], setting) as child:
        before = child.facts()["peak_memory_bytes"]
        child.run(1)
        seconds = [child.run(1).seconds for _ in range(num_steps)]
        peak = child.facts()["peak_memory_bytes"]
    return {
        "before_training_bytes": before,
        "peak_bytes": peak,
        "step_seconds": statistics.median(seconds),
    }


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    sides = options.sides.split(",")
    measured: dict[int, dict[str, dict[str, float]]] = {}
    for vocab_size in map(int, options.vocabularies.split(",")):
        with workspace() as folder:
            num_tokens = (options.steps + 1) * options.batch_size * options.length
            setting = setting_for(
                options,
                folder,
                vocab_size=vocab_size,
                max_steps=options.steps + 1,
                num_train_characters=characters_for(num_tokens),
            )
            measured[vocab_size] = {side: measure(side, setting, options.steps) for side in sides}
    print(f"{options.precision}, {options.batch_size} x {options.length}, {machine['device']}")
    rows = [
        [f"{vocab_size:,}", name, megabytes(side["before_training_bytes"]),
         megabytes(side["peak_bytes"]), f"{side['step_seconds']:.2f}"]
        for vocab_size, by_side in measured.items()
        for name, side in by_side.items()
    ]  # fmt: skip
    print(table(["vocabulary", "side", "peak before training", "peak", "seconds per step"], rows))
    write_json(
        options.json,
        benchmark="vocabulary",
        model=options.model,
        steps=options.steps,
        vocabularies=measured,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
