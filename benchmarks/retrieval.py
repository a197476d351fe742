"""Retrieval: its CPU time beside that of the evaluation that it is a part of.

Both measure the base model of a config on its validation text, by turns. The time of perplexity is
that of some chunks, times the number of all chunks and draws of masks.
"""

from interleaved import run_apart
from options import CommandLine, main
from report import spread, table, write_json


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("config", help="a config whose text is in reach")
    arguments.add_number("--rounds", 3, "times each")
    arguments.add_number("--chunks", 100, "validation chunks, which are one unit of work")
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    arguments = (options.config, options.rounds, options.chunks)
    measured = run_apart("retrieval_sides:seconds", *arguments)
    shares = [r / p for r, p in zip(measured["retrieval"], measured["perplexity"], strict=True)]
    rows = [
        [name, size, ", ".join(f"{seconds:.1f}" for seconds in measured[name])]
        for name, size in (
            ("retrieval", f"{measured['documents']} documents"),
            ("perplexity", f"{measured['chunks']:,} chunks, draws: {measured['draws']}"),
        )
    ]
    print(table(["measured", "on", "CPU seconds"], rows))
    median = sorted(shares)[len(shares) // 2]
    print(f"retrieval takes {median:.1%} of its time (rounds {spread(shares)})")
    write_json(options.json, benchmark="retrieval", **measured, shares=shares, machine=machine)


if __name__ == "__main__":
    main(benchmark)
