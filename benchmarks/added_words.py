"""Added words: words per second with and without them, in tokenizing, training and inference.

Each side is the model of a config with some number of the words that its text suggests, in a
process of its own. Words are counted in the text itself, and so are the same for each tokenizer.
`tokenizing` is the tokenizer alone, as `tokenizer(text)` runs it; `a store` is how a run tokenizes,
once most words are known; `inference` goes from one text to the encoder's last layer.
"""

import statistics
from dataclasses import dataclass
from typing import Any

from interleaved import Block, Child, interleave, rate_ratios, run_apart, side_by_side
from options import CommandLine, main
from report import spread, table, write_json

PARTS = {"tokenizing": 1, "a store": 1, "training": 2, "inference": 2}
"""What is measured, and the units of work in a turn."""


@dataclass(frozen=True)
class Part:
    """A part of the work of a side."""

    child: Child
    name: str

    def run(self, num_steps: int) -> Block:
        block: Block = self.child.call("run", self.name, num_steps)
        return block


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("config", help="a config whose text is in reach")
    arguments.add_argument(
        "--add", default="500,2000", metavar="N,...", help="numbers of words; default %(default)s"
    )
    arguments.add_number("--rounds", 5, "turns of each side")
    return arguments


def benchmark() -> None:
    options = command_line().parse_args()
    machine = run_apart("machine:describe")
    numbers = [0, *map(int, options.add.split(","))]
    sides = {str(n): ("added_words_sides:AddedWords", options.config, n) for n in numbers}
    blocks: dict[str, dict[str, list[Block]]] = {}
    with side_by_side(sides) as children:
        for name, num_steps in PARTS.items():
            parts = {number: Part(child, name) for number, child in children.items()}
            blocks[name] = interleave(parts, options.rounds, num_steps, num_steps)
        facts = {number: child.facts() for number, child in children.items()}
    print(f"{options.config}, {machine['device']}")
    rows = [_row(number, facts[number], blocks) for number in facts]
    print(table(["words added", "rows", "words per chunk", *PARTS], rows))
    print("words per second, and the ratio to none added (its range over the rounds)")
    rates = {
        part: {number: [block.rate for block in turns] for number, turns in of_part.items()}
        for part, of_part in blocks.items()
    }
    write_json(options.json, benchmark="added_words", facts=facts, rates=rates, machine=machine)


def _row(
    number: str, facts: dict[str, Any], blocks: dict[str, dict[str, list[Block]]]
) -> list[str]:
    cells = [f"{int(number):,}", f"{facts['num_rows']:,}", f"{facts['words_per_chunk']:.1f}"]
    for of_part in blocks.values():
        rate = statistics.median(block.rate for block in of_part[number])
        ratios = rate_ratios(of_part[number], of_part["0"])
        cells.append(f"{rate:,.0f}, {statistics.median(ratios):.2f} ({spread(ratios)})")
    return cells


if __name__ == "__main__":
    main(benchmark)
