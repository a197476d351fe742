"""Data selection: how many pages of a domain are found that are hidden in other text.

Pages of DOMAIN are hidden among the documents of POOL, and as many documents are selected as were
hidden, by other pages of DOMAIN. So precision and recall are the same, and shown as `found`: with
pages that are hidden whole, and with their first 1,000 characters only. The rows are the rules by
which documents can be selected:

- `mean`: the score of `corpus.sources[].select`.
- `plain mean`: the mean log ratio of n-grams, also of texts of a few words.
- `sum`: the sum of the log ratios, as in DSIR, without a draw.
- `sum, drawn`: the same with Gumbel noise, which is the draw of DSIR.
- `mean, drawn`: the plain mean with Gumbel noise.
"""

import argparse
import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus.cleaning import clean
from mlmtune.corpus.domain_selection import log_ratios, ngram_counts, score
from options import CommandLine, main
from report import table, write_json

FIRST_CHARACTERS = 1000
MARKUP: dict[str, Literal["markdown", "none"]] = {".md": "markdown", ".txt": "none"}


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("domain", type=Path, help="a folder of .md or .txt files")
    arguments.add_argument("pool", type=Path, help="another folder of such files")
    arguments.add_argument("--hidden", type=int, default=300, help="the number of pages to hide")
    arguments.add_argument(
        "--known", type=int, nargs="+", default=[10, 100, 1000],
        help="the numbers of other pages that the domain is known by",
    )  # fmt: skip
    return arguments


def benchmark() -> None:
    options: argparse.Namespace = command_line().parse_args()
    pages = read(options.domain)
    pool = read(options.pool)
    hidden, others = pages[: options.hidden], pages[options.hidden :]
    found: dict[str, Any] = {}
    for title, length in (("whole", None), (f"first {FIRST_CHARACTERS:,}", FIRST_CHARACTERS)):
        texts = [text[:length] for text in hidden] + pool
        for known in options.known:
            of_rule = shares(texts, len(hidden), others[:known])
            for rule, share in of_rule.items():
                found.setdefault(rule, {})[f"{title}, by {known:,}"] = share
    columns = list(found["mean"])
    rows = [[rule, *(f"{found[rule][column]:.1%}" for column in columns)] for rule in found]
    print(f"{len(hidden):,} pages hidden among {len(pool):,} documents")
    print(table(["found", *columns], rows))
    write_json(options.json, benchmark="selection", num_pool=len(pool), found=found)


def read(folder: Path) -> list[str]:
    """Return the cleaned texts of a folder without repeats, in an order drawn by a fixed seed."""
    texts = {
        clean(
            path.read_text(encoding="utf-8", errors="replace"),
            MARKUP[path.suffix], CleaningConfig(), MarkdownConfig(), Counter(),
        )
        for path in folder.rglob("*")
        if path.suffix in MARKUP and path.is_file()
    }  # fmt: skip
    ordered = sorted(texts - {""})
    random.Random(0).shuffle(ordered)
    return ordered


def shares(texts: list[str], num_hidden: int, known: list[str]) -> dict[str, float]:
    """Return the share of the first texts that each rule finds among all of them."""
    counts = np.stack([ngram_counts(text) for text in texts])
    domain = sum((ngram_counts(text) for text in known), np.zeros(counts.shape[1], np.int64))
    pool = counts.sum(axis=0)
    ratios = log_ratios(domain, pool)
    sums = counts @ ratios
    means = sums / np.maximum(counts.sum(axis=1), 1)
    noise = np.random.default_rng(0).gumbel(size=len(texts))
    pool_mean = float(pool @ ratios) / int(pool.sum())
    rules: dict[str, NDArray[np.float64]] = {
        "mean": np.asarray([score(row, ratios, pool_mean) for row in counts]),
        "plain mean": means,
        "sum": sums,
        "sum, drawn": sums + noise,
        "mean, drawn": means + noise,
    }
    return {
        rule: float((np.argsort(-scores)[:num_hidden] < num_hidden).mean())
        for rule, scores in rules.items()
    }


if __name__ == "__main__":
    main(benchmark)
