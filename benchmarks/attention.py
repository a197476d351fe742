"""Attention: milliseconds forward and backward, by masks of pairs and by borders and windows.

Both compute the same, with deterministic kernels as in a run; `free` is the mask's time without
them. Where there is no GPU, both are computed by masks, so that the times say nothing.
"""

from interleaved import run_apart
from options import PRECISIONS, CommandLine, main
from report import table, write_json


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument(
        "--lengths", nargs="+", type=int, default=[128, 512, 1024, 8192], metavar="N",
        help="tokens of a row; default %(default)s",
    )  # fmt: skip
    arguments.add_number("--tokens", 16_384, "tokens of all rows")
    arguments.add_number("--heads", 12, "heads, of 64 dimensions each")
    arguments.add_number("--rounds", 12, "timings, of which the median is taken")
    arguments.add_argument(
        "--precision", choices=PRECISIONS, default="bf16", help="default %(default)s"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    sizes = options.tokens, options.heads, options.precision, options.rounds
    cases = [
        case for length in options.lengths
        for case in run_apart("attention_kinds:measure", length, *sizes)
    ]  # fmt: skip
    rows = [
        [
            f"{case['length']:,}",
            case["kind"],
            f"{case['mask']['ms']:.2f}",
            f"{case['borders']['ms']:.2f}",
            f"{case['mask']['ms'] / case['borders']['ms']:.1f}",
            f"{case['free']['ms']:.2f}",
            "same" if case["mask"]["repeats"] and case["borders"]["repeats"] else "other",
            "same" if case["free"]["repeats"] else "other",
            f"{case['difference']:.0e}",
        ]
        for case in cases
    ]
    print(f"{options.tokens:,} tokens, {options.heads} heads of 64, {options.precision}, "
          f"{machine['device']}")  # fmt: skip
    header = ["row", "seen", "mask, ms", "borders, ms", "ratio", "free, ms", "bits", "of free",
              "difference"]  # fmt: skip
    print(table(header, rows))
    write_json(options.json, benchmark="attention", cases=cases, machine=machine)


if __name__ == "__main__":
    main(benchmark)
