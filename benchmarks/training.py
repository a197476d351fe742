"""Training: tokens per second of mlmtune against the peer's loop, by turns in one run."""

import statistics
from contextlib import closing
from dataclasses import replace

from flops import training_flops_per_token
from interleaved import Child, interleave, side_by_side, summary, warm_up
from options import CommandLine, Setting, characters_for, main, setting_for, workspace
from report import megabytes, spread, stage, table, write_json

MLM_PROBABILITY = 0.15
"""The default of both sides."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_model()
    arguments.add_training()
    arguments.add_rounds(rounds=5, steps=5, warmup=2)
    arguments.add_argument("--compile", action="store_true", help="measure both compiled, too")
    return arguments


def sides_of(setting: Setting, *, compiles: bool) -> dict[str, tuple[str, Setting]]:
    """Return the class of each side, and the setting that it is made with."""
    compiled = replace(setting, compiled=True)
    sides = {name: (f"{name}:Training", setting) for name in ("ours", "peer")}
    if compiles:
        sides |= {f"{name} compiled": (f"{name}:Training", compiled) for name in ("ours", "peer")}
    return sides


def benchmark() -> None:
    options = command_line().parse_args()
    num_steps = options.warmup + 1 + options.rounds * (options.steps + 1)
    with workspace() as folder, closing(Child("machine")) as child:  # starts while texts are made
        setting = setting_for(
            options,
            folder,
            max_steps=num_steps,
            num_train_characters=characters_for(num_steps * options.batch_size * options.length),
        )
        machine = child.call("describe")
        peak_flops = child.call("matmul_rate", options.precision)
        child.close()  # so that the sides have the memory and the processors
        stage("model and text")
        flops = training_flops_per_token(setting.model, options.length, MLM_PROBABILITY)
        with side_by_side(sides_of(setting, compiles=options.compile)) as sides:
            stage("sides ready")
            failed = warm_up(sides, options.warmup)
            for name in failed.keys() & {"ours", "peer"}:
                raise failed[name]
            sides = {name: side for name, side in sides.items() if name not in failed}
            stage("warmed up")
            blocks = interleave(sides, options.rounds, options.steps, 0)
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
    for name, ratios in result["ratios"].items():
        print(f"{name}: {statistics.median(ratios):.2f} x peer (rounds {spread(ratios)})")
    for name, error in failed.items():
        print(f"{name} failed: {error}")
    write_json(
        options.json,
        benchmark="training",
        model=options.model,
        **setting.to_json(),
        rounds=options.rounds,
        steps=options.steps,
        **result,
        facts=facts,
        failed={name: str(error) for name, error in failed.items()},
        flops_per_token=flops,
        matmul_flops_per_second=peak_flops,
        machine=machine,
    )


if __name__ == "__main__":
    main(benchmark)
