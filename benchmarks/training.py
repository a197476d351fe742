"""Training: tokens per second of mlmtune against the peer's loop, by turns in one run."""

from flops import training_flops_per_token
from interleaved import Child, interleave, run_apart, summary
from options import CommandLine, characters_for, main, setting_for, workspace
from report import megabytes, spread, table, write_json

MLM_PROBABILITY = 0.15
"""The default of both sides."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model()
    arguments.add_training()
    arguments.add_rounds(rounds=5, steps=5, warmup=2)
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    peak_flops = run_apart("machine:matmul_rate", options.precision)
    num_steps = options.warmup + options.rounds * options.steps
    with workspace() as folder:
        setting = setting_for(
            options,
            folder,
            max_steps=num_steps,
            num_train_characters=characters_for(num_steps * options.batch_size * options.length),
        )
        flops = training_flops_per_token(setting.model, options.length, MLM_PROBABILITY)
        with Child("ours:Training", setting) as ours, Child("peer:Training", setting) as peer:
            sides = {"ours": ours, "peer": peer}
            blocks = interleave(sides, options.rounds, options.steps, options.warmup)
            facts = {name: side.facts() for name, side in sides.items()}
    result = summary(blocks)
    rows = []
    for name, measured in result["sides"].items():
        measured["mfu"] = measured["rate"] * flops / peak_flops
        rows.append(
            [
                name,
                f"{measured['rate']:,.0f}",
                f"{1000 * measured['step_seconds']:,.1f}",
                megabytes(facts[name]["peak_memory_bytes"]),
                f"{measured['mfu']:.1%}",
            ]
        )
    print(
        f"{options.model}, {options.precision}, {options.batch_size} x {options.length}, "
        f"{machine['device']}: {peak_flops / 1e12:,.2f} TFLOP/s of {options.precision} products"
    )
    print(table(["side", "tokens/s", "ms per step", "peak memory", "MFU"], rows))
    print(f"ratio {result['ratio']:.2f} (rounds {spread(result['ratios']['ours'])})")
    write_json(
        options.json,
        benchmark="training",
        model=options.model,
        **setting.to_json(),
        rounds=options.rounds,
        steps=options.steps,
        **result,
        facts=facts,
        flops_per_token=flops,
        matmul_flops_per_second=peak_flops,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
