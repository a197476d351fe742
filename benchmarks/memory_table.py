"""Memory of large encoders on each GPU, by estimate: which cards they fit on, and divided how.

`whole`: each GPU holds everything (DDP). `sharded N`: AdamW's moments are divided over N GPUs
(training.shard_optimizer). `full N`: so are weights and gradients (FSDP2, which mlmtune does not
do). All in bf16, with 30 % of the tokens masked. Nothing is allocated, and no GPU is needed.

With --layers: the activations that a layer keeps on this CPU, and the estimate of them.
"""

from typing import Any

from interleaved import run_apart
from options import CommandLine, main
from report import table, write_json

MODELS = (
    "bert-base", "ModernBERT-large", "DeBERTa-v3-large", "EuroBERT-210m", "EuroBERT-610m",
    "ettin-encoder-1b", "EuroBERT-2.1B", "xlm-roberta-xl",
)  # fmt: skip


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS[1:], metavar="NAME",
        help="default %(default)s",
    )  # fmt: skip
    arguments.add_argument(
        "--lengths", nargs="+", type=int, default=[128, 512, 1024], metavar="N",
        help="tokens of a sequence; default %(default)s",
    )  # fmt: skip
    arguments.add_number("--batch-size", 8, "sequences that a GPU computes at once")
    arguments.add_argument(
        "--gpus", nargs="+", type=int, default=[2, 8], metavar="N", help="default %(default)s"
    )
    arguments.add_argument(
        "--layers", choices=("fp32", "bf16"), help="measure activations of layers on this CPU"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    cases: list[dict[str, Any]] = []
    for model in options.models:
        for length in options.lengths:
            if options.layers:
                cases.append(run_apart("memory_shapes:layers", model, length, options.layers))
            else:
                sizes = length, options.batch_size, tuple(options.gpus)
                cases += run_apart("memory_shapes:fits", model, *sizes)
    print(_layers(cases) if options.layers else _fits(cases, options.batch_size))
    write_json(options.json, benchmark="memory_table", cases=cases)


def _layers(cases: list[dict[str, Any]]) -> str:
    rows = [
        [
            case["model"], f"{case['num_tokens']:,}", f"{case['kept']:,.0f}",
            f"{case['estimated']:,.0f}", f"{case['estimated'] / case['kept']:.2f}",
        ]
        for case in cases
    ]  # fmt: skip
    print("bytes per token that a layer keeps for the backward pass")
    return table(["model", "tokens", "kept", "estimated", "ratio"], rows)


def _fits(cases: list[dict[str, Any]], batch_size: int) -> str:
    print(f"GB on each GPU in bf16, {batch_size} sequences at once, and the card that has room")
    rows = [
        [
            case["model"], f"{case['num_parameters'] / 1e6:,.0f} M", f"{case['num_tokens']:,}",
            "yes" if case["is_checkpointed"] else "no",
            *(
                f"{total / 1e9:.1f} ({case['card_gb'][way] or '-'})"
                for way, total in case["total_bytes"].items()
            ),
        ]
        for case in cases
    ]  # fmt: skip
    header = ["model", "parameters", "tokens", "checkpointing", *cases[0]["total_bytes"]]
    return table(header, rows)


if __name__ == "__main__":
    main(benchmark)
