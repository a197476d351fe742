"""Evaluation: tokens per second of mlmtune's perplexity against the peer's evaluation loop."""

from interleaved import Child, interleave, run_apart, summary
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, spread, table, write_json


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model(batch_size=32)
    arguments.add_rounds(rounds=5, steps=1, warmup=1)
    arguments.add_number("--chunks", 128, "validation sequences, which are one unit of work")
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            num_validation_characters=characters_for(options.chunks * options.length),
            max_chunks=options.chunks,
        )
        with Child("ours:Evaluation", setting) as ours, Child("peer:Evaluation", setting) as peer:
            sides = {"ours": ours, "peer": peer}
            blocks = interleave(sides, options.rounds, options.steps, options.warmup)
            facts = {name: side.facts() for name, side in sides.items()}
    result = summary(blocks)
    rows = [
        [
            name,
            f"{measured['rate']:,.0f}",
            f"{facts[name]['num_chunks']:,}",
            f"{measured['step_seconds']:.2f}",
            megabytes(facts[name]["peak_memory_bytes"]),
        ]
        for name, measured in result["sides"].items()
    ]
    print(
        f"{options.model}, {options.precision}, {options.batch_size} x {options.length}, "
        f"{machine['device']}"
    )
    print(table(["side", "tokens/s", "chunks", "s an evaluation", "peak memory"], rows))
    print(f"ratio {result['ratio']:.2f} (rounds {spread(result['ratios']['ours'])})")
    write_json(
        options.json,
        benchmark="evaluation",
        model=options.model,
        **setting.to_json(),
        rounds=options.rounds,
        **result,
        facts=facts,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
