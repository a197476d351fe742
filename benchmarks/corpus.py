"""Corpus: how fast text is cleaned, beside what no reader goes without; or the cost of `prepare`.

`ours` cleans in one process, `all processors` in as many as there are. The last side only reads
and decodes the same files in one process, and parses them: Markdown by pyromark, JSON Lines by
json.loads. All formats hold the same pages. With --optional, `languages` and `mojibake` are `ours`
with a step of the extra `cleaning`. With --megabytes, folders of so many MB of Markdown are
prepared without a cache: time, memory of all processes together, and bytes on disk. If there are
too few pages, they are repeated with their sections shuffled. `added` is the memory that the
comparisons allocate in the main process.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from interleaved import Child, interleave, rate_ratios, run_apart, summary
from options import CommandLine, main, workspace
from report import megabytes, spread, table, write_json
from tree_memory import TreeMemory

SAMPLE_MEGABYTES = 60
"""The size of a turn, large enough to hide the second that starting processes takes."""
OPTIONAL: dict[str, dict[str, Any]] = {
    "languages": {"languages": ["en"]},
    "mojibake": {"cleaning": {"mojibake": "repair"}},
}
"""Settings of the section `corpus`, by the name of the side."""
CHANGED_PAGE = "0/0.md"
LIMITS = {
    "markdown": "pyromark",
    "html": "read and decode",
    "text": "read and decode",
    "json": "json.loads",
}
"""The name of the side `preparation.Limit`, by format."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_text()
    arguments.add_rounds(rounds=3, steps=1, warmup=0)
    arguments.add_argument(
        "--format", choices=LIMITS, default="markdown",
        help="what the pages are written as and read from; default %(default)s",
    )  # fmt: skip
    arguments.add_argument(
        "--megabytes", metavar="MB,MB,...",
        help="prepare so much Markdown without a cache instead, as in 20,200,2000",
    )  # fmt: skip
    arguments.add_argument(
        "--optional", action="store_true", help="also measure the steps of the extra `cleaning`"
    )
    arguments.add_argument("--near", action="store_true", help="then look for near-duplicates, too")
    arguments.add_argument(
        "--overlap", metavar="PATH", help="then for overlap with this text, too: a test set"
    )
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    if options.megabytes is None:
        speed(options)
    else:
        whole(options, [float(size) for size in options.megabytes.split(",")])


def speed(options: argparse.Namespace) -> None:
    machine = run_apart("machine:describe")
    optional = OPTIONAL if options.optional else {}
    with workspace() as folder:
        pages = folder / "pages"
        num_characters = SAMPLE_MEGABYTES * 1e6
        num_bytes = run_apart(
            "texts:write_pages", options.text, pages, num_characters, options.format
        )
        with ExitStack() as stack:

            def start(side: str, *inputs: Any) -> Child:
                return stack.enter_context(Child(f"preparation:{side}", pages, *inputs))

            sides = {
                "ours": start("Cleaning", folder, 1, options.format),
                **{
                    name: start("Cleaning", folder, 1, options.format, settings)
                    for name, settings in optional.items()
                },
                "all processors": start("Cleaning", folder, None, options.format),
                LIMITS[options.format]: start("Limit", options.format),
            }
            blocks = interleave(sides, options.rounds, options.steps, options.warmup)
    result = summary(blocks, to=LIMITS[options.format])
    of_ours = {
        name: rate_ratios(blocks[name], blocks["ours"]) for name in ("all processors", *optional)
    }
    rows = [
        [
            name,
            f"{side['rate'] / 1e6:.2f}",
            f"{statistics.median(result['ratios'].get(name, [1.0])):.2f}",
            spread(result["ratios"].get(name, [1.0])),
        ]
        for name, side in result["sides"].items()
    ]
    print(f"{megabytes(num_bytes)} of {options.format}, {machine['device']}")
    print(table(["side", "MB/s", f"of {LIMITS[options.format]}", "rounds"], rows))
    for name, ratios in of_ours.items():
        print(f"{name}: {statistics.median(ratios):.2f} of ours ({spread(ratios)})")
    write_json(
        options.json,
        benchmark="corpus",
        format=options.format,
        num_bytes=num_bytes,
        rounds=options.rounds,
        **result,
        of_ours=of_ours,
        machine=machine,
    )


def whole(options: argparse.Namespace, sizes: list[float]) -> None:
    machine = run_apart("machine:describe")
    compared: dict[str, dict[str, Any]] = {}  # by the reason that the funnel counts
    if options.near:
        compared["near_duplicate"] = {"near_duplicates": {}}
    if options.overlap is not None:
        compared["overlap"] = {"exclude_overlap_with": options.overlap}
    measured = []
    for size in sizes:
        with workspace() as folder:
            pages = folder / "pages"
            num_bytes = run_apart("texts:write_pages", options.text, pages, size * 1e6)
            say(f"{megabytes(num_bytes)} of Markdown are written")
            model = run_apart("models:prepare", "minilm", folder)
            steps = prepare(pages, model, folder)
            comparisons = compare(pages, model, folder, compared)
            measured.append({"num_bytes": num_bytes, **steps, "compared": comparisons})
    print(f"{machine['device']}, {machine['num_cpus']} processors")
    show_prepared(measured)
    if compared:
        show_compared(measured)
    write_json(options.json, benchmark="corpus, whole", sizes=measured, machine=machine)


def prepare(pages: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Measure each step of a preparation in a process of its own, as a user would run it."""
    inputs: tuple[Any, ...] = (pages, model, folder, {})
    steps = {
        "cleaning": watch("clean", *inputs),
        "tokenizing": watch("prepare", *inputs),
        "opening": watch("prepare", *inputs),
    }
    with (pages / CHANGED_PAGE).open("a", encoding="utf-8") as page:
        page.write("\nOne more line.\n")
    return {**steps, "one_changed": watch("clean", *inputs)}


def compare(
    pages: Path, model: Path, folder: Path, compared: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Measure what the search for near-duplicates or overlap adds to cleaned parts."""
    if not compared:
        return {}
    plain = _trace(pages, model, folder, {})
    measured = {}
    for name, settings in compared.items():
        measured[name] = watch("clean", pages, model, folder, settings)
        measured[name]["added_bytes"] = _trace(pages, model, folder, settings) - plain
    return measured


def watch(step: str, *inputs: Any) -> dict[str, Any]:
    """Run a step of a preparation, and measure the memory of its process and workers."""
    with Child("preparation:Preparation", *inputs) as child, TreeMemory(child.pid) as memory:
        result: dict[str, Any] = child.call(step)
    say(f"{step}: {result['seconds']:.2f} s, {megabytes(memory.peak_bytes)} of memory")
    return {
        **result,
        "peak_bytes": memory.peak_bytes,
        "peak_own_bytes": memory.peak_own_bytes,
    }


def _trace(*inputs: Any) -> int:
    with Child("preparation:Preparation", *inputs) as child:
        num_bytes: int = child.call("trace")
        return num_bytes


def show_prepared(measured: list[dict[str, Any]]) -> None:
    rows = [
        [
            megabytes(row["num_bytes"]),
            f"{row['cleaning']['documents']['found']:,}",
            f"{row['cleaning']['seconds']:.0f}",
            f"{row['tokenizing']['seconds']:.0f}",
            f"{1000 * row['opening']['seconds']:,.0f}",
            f"{row['one_changed']['seconds']:.1f}",
            megabytes(row["cleaning"]["peak_bytes"]),
            megabytes(row["tokenizing"]["peak_bytes"]),
            megabytes(row["cleaning"]["num_bytes"]),
            megabytes(row["tokenizing"]["num_bytes"]),
        ]
        for row in measured
    ]
    header = ["text", "documents", "cleaning, s", "tokenizing, s", "opening, ms", "one changed, s"]
    header += ["memory, cleaning", "memory, tokenizing", "cleaned/", "tokens/"]
    print(table(header, rows))


def show_compared(measured: list[dict[str, Any]]) -> None:
    header = ["text", "looking for", "left out", "s", "memory", "added", "bytes per document"]
    rows = [
        [
            megabytes(row["num_bytes"]),
            name,
            f"{result['documents']['left_out'].get(name, 0):,}",
            f"{result['seconds']:.0f}",
            megabytes(result["peak_bytes"]),
            megabytes(result["added_bytes"]),
            f"{result['added_bytes'] / result['documents']['found']:,.0f}",
        ]
        for row in measured
        for name, result in row["compared"].items()
    ]
    print(table(header, rows))


def say(line: str) -> None:
    """Report progress, because large sizes take an hour."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(benchmark)
