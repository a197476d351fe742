"""Text to chunks: MB/s of mlmtune against the peer's, by turns in one run; or the memory it takes.

Our side tokenizes documents in memory into a store on disk, and then reads every chunk of it. The
peer's side calls `datasets.map` twice, to tokenize and to group. `encode_batch_fast` is the Rust
tokenizer alone, without a cache of words; `split` only splits the documents at white space, in one
thread, which every cache of words begins with.
With --memory, a process of its own builds a store over a folder of so many MB of .txt files.
"""

import argparse
import statistics
from typing import Any

from interleaved import Child, interleave, rate_ratios, run_apart, summary
from options import FEWEST_CHARACTERS, CommandLine, Setting, main, setting_for, workspace
from report import megabytes, spread, table, write_json

LIMITS = ("encode_batch_fast", "split")


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_text()
    arguments.add_rounds(rounds=5, steps=1, warmup=1)
    arguments.add_argument(
        "--megabytes", type=float, default=10, metavar="N",
        help="how much of the text; it is repeated, never word for word, if there is less; "
        "default %(default)s",
    )  # fmt: skip
    arguments.add_number("--length", 128, "tokens in a chunk")
    arguments.add_argument(
        "--memory", metavar="MB,MB,...",
        help="measure the memory of building a store over so much text instead, as in 20,200,2000",
    )  # fmt: skip
    # The options of benchmarks that run a model; here the model names the tokenizer.
    arguments.set_defaults(model="minilm", precision="fp32", batch_size=64)
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    if options.memory is not None:
        memory(options, [float(size) for size in options.memory.split(",")])
    else:
        speed(options)


def speed(options: argparse.Namespace) -> None:
    machine = run_apart("machine:describe")
    with workspace() as folder:
        num_characters = max(int(options.megabytes * 1e6), FEWEST_CHARACTERS)
        setting = setting_for(options, folder, num_train_characters=num_characters)
        blocks, facts = _measure(options, setting)
    result = summary(blocks)
    shares = {limit: rate_ratios(blocks["ours"], blocks[limit]) for limit in LIMITS}
    rows = [
        [
            name,
            f"{side['rate'] / 1e6:.2f}",
            f"{statistics.median(result['ratios'].get(name, [1.0])):.2f}",
            f"{facts[name]['bytes_per_token']:.2f}" if name in facts else "",
        ]
        for name, side in result["sides"].items()
    ]
    print(
        f"{blocks['ours'][0].amount / blocks['ours'][0].num_steps / 1e6:.1f} MB, chunks of "
        f"{options.length}, {machine['device']}"
    )
    print(table(["side", "MB/s", "of the peer's", "bytes per token"], rows))
    print(f"ratio {result['ratio']:.2f} (rounds {spread(result['ratios']['ours'])})")
    for limit, share in shares.items():
        print(f"ours is at {statistics.median(share):.0%} of {limit} alone")
    write_json(
        options.json,
        benchmark="chunks",
        length=options.length,
        rounds=options.rounds,
        **result,
        share_of_limits=shares,
        facts=facts,
        machine=machine,
    )


def _measure(options: argparse.Namespace, setting: Setting) -> tuple[dict[str, Any], Any]:
    with (
        Child("ours:Chunking", setting) as ours,
        Child("peer:Chunking", setting) as peer,
        Child("ours:Tokenizing", setting, LIMITS[0]) as fast,
        Child("ours:Tokenizing", setting, LIMITS[1]) as split,
    ):
        sides = {"ours": ours, "peer": peer, LIMITS[0]: fast, LIMITS[1]: split}
        blocks = interleave(sides, options.rounds, options.steps, options.warmup)
        return blocks, {name: sides[name].facts() for name in ("ours", "peer")}


def memory(options: argparse.Namespace, sizes: list[float]) -> None:
    machine = run_apart("machine:describe")
    measured = []
    for size in sizes:
        with workspace() as folder:
            text = folder / "text"
            num_bytes = run_apart("texts:write_folder", options.text, text, int(size * 1e6))
            model = run_apart("models:prepare", options.model, folder)
            measured.append(
                {"num_bytes": num_bytes, **run_apart("ours:build_store", text, model, folder)}
            )
    rows = [
        [
            megabytes(row["num_bytes"]),
            f"{row['num_documents']:,}",
            f"{row['seconds']:.0f}",
            megabytes(row["peak_before_bytes"]),
            megabytes(row["peak_with_store_bytes"]),
            megabytes(row["peak_with_chunks_bytes"]),
        ]
        for row in measured
    ]
    print("peak resident memory of a process that builds a store, then goes through its chunks")
    header = ["text", "documents", "seconds", "before", "store built", "chunks read"]
    print(table(header, rows))
    write_json(options.json, benchmark="chunks, memory", sizes=measured, machine=machine)


if __name__ == "__main__":
    main(benchmark)
