"""Near-duplicates: the search on one machine, the search by tasks, and datatrove's own MinHash.

The first table is of synthetic signatures: seconds and memory of the process that decides. The
tasks run on the processors of this machine. `comparing` is what one process does in both cases.

The second table is of the pages in --text, and of --copies of each in which up to 5 % of the words
are changed. `not alike` counts the documents that are left out though no document that stays has a
Jaccard similarity of 0.8 or more, and in brackets 0.7 or more. With --complete (needs spacy),
datatrove makes its own signatures, too.
"""

import argparse
import itertools
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from loguru import logger
from numpy.typing import NDArray

from mlmtune.config import CleaningConfig, MarkdownConfig, NearDuplicatesConfig
from mlmtune.console import Console
from mlmtune.corpus import band_search, near_duplicates
from mlmtune.corpus.band_search import SignatureFiles
from mlmtune.corpus.cleaning import clean
from mlmtune.corpus.engine import ThisMachine
from mlmtune.corpus.near_duplicates import find_near_duplicates, signature
from mlmtune.corpus.ngrams import ngram_hashes, word_windows
from options import CommandLine, main
from report import table, write_json

CONFIG = NearDuplicatesConfig()
NUM_FILES = 64
CHANGES = (0.0, 0.005, 0.02, 0.05)


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("--documents", type=int, nargs="*", default=[100_000])
    arguments.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.3])
    arguments.add_argument("--alone", action="store_true", help="leave out the search by tasks")
    arguments.add_argument("--text", type=Path, help="a folder of .md")
    arguments.add_argument("--copies", type=int, default=0)
    arguments.add_argument("--complete", action="store_true")
    arguments.add_argument("--folder", type=Path, help="where the signatures are written")
    return arguments


def benchmark() -> None:
    options: argparse.Namespace = command_line().parse_args()
    logger.disable("datatrove")
    measured, compared = [], {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number, (size, share) in enumerate(
            itertools.product(options.documents, options.shares)
        ):
            measured += measure(Path(folder) / str(number), size, share, options.alone)
        if options.text is not None:
            texts = read(options.text, options.copies)
            compared = compare(texts, Path(folder), options.complete)
    if measured:
        columns = ["documents", "near-duplicates", "by", "search", "comparing", "memory"]
        rows = [
            [
                f"{row['documents']:,}", f"{row['share']:.0%}", row["by"], f"{row['search']:.1f} s",
                f"{row['comparing']:.1f} s", f"{row['bytes_per_document']:.0f} bytes per document",
            ]
            for row in measured
        ]  # fmt: skip
        print(table(columns, rows))
    if compared:
        print(f"{len(texts):,} documents")
        columns = ["by", "left out", "only it", "only mlmtune", "not alike"]
        print(table(columns, [[name, *map(str, row)] for name, row in compared.items()]))
    write_json(options.json, benchmark="near_duplicates", measured=measured, compared=compared)


def measure(folder: Path, size: int, share: float, is_alone: bool) -> list[dict[str, Any]]:
    """Measure both searches with signatures of which a share is nearly that of an earlier one."""
    folder.mkdir()
    sizes = [len(part) for part in np.array_split(np.empty(size, np.int8), NUM_FILES)]
    files = SignatureFiles.in_folder(folder, CONFIG, sizes)
    generator = np.random.default_rng(0)
    with (folder / "all").open("wb") as file:
        for number, of_slice in enumerate(sizes):
            rows = synthetic(generator, of_slice, share)
            file.write(rows.tobytes())
            if not is_alone:
                files.write(number, np.array_split(rows, -(-of_slice // 4096)))
    shape = (size, CONFIG.num_perm)
    rows = np.memmap(folder / "all", dtype=np.uint32, mode="r", shape=shape)
    order = np.arange(size)
    sides: dict[str, Callable[[], Any]] = {
        "one machine": partial(find_near_duplicates, rows, order, CONFIG.threshold)
    }
    if not is_alone:
        engine = ThisMachine(Console(is_main=False))
        sides["tasks"] = partial(files.find_near_duplicates, order, engine)
    found, measured = [], []
    for name, side in sides.items():
        with watched() as peak, timed_comparing() as comparing:
            started = time.perf_counter()
            found.append(side())
            seconds = time.perf_counter() - started
        row = {"documents": size, "share": share, "by": name, "comparing": sum(comparing)}
        row |= {"search": seconds - sum(comparing), "bytes_per_document": max(peak) / size}
        measured.append(row)
    assert found[0] == found[-1]
    return measured


def synthetic(generator: np.random.Generator, size: int, share: float) -> NDArray[np.uint32]:
    """Return (size, P) signatures; one in ten minima of a near-duplicate differs."""
    rows = generator.integers(0, 1 << 32, size=(size, CONFIG.num_perm), dtype=np.uint32)
    num_copies = int(size * share)
    copies = rows[size - num_copies :]
    originals = rows[generator.integers(0, size - num_copies, size=num_copies)]
    np.copyto(copies, originals, where=generator.random(copies.shape) >= 0.1)
    return rows


@contextmanager
def timed_comparing() -> Iterator[list[float]]:
    """Give the seconds of comparing signatures."""
    seconds: list[float] = []
    original = near_duplicates.compare

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            seconds.append(time.perf_counter() - started)

    with patch.object(near_duplicates, "compare", timed), patch.object(
        band_search, "compare", timed
    ):  # fmt: skip
        yield seconds


@contextmanager
def watched() -> Iterator[list[int]]:
    """Give what this process allocates, in bytes; what it maps from disk is not counted."""
    before, allocated, ended = allocated_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            allocated.append(allocated_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield allocated
    finally:
        ended.set()
        thread.join()


def allocated_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def read(folder: Path, num_copies: int) -> list[str]:
    """Return the cleaned texts of a folder, each once, and changed copies of them."""
    draw = random.Random(0)
    pages = [path.read_text(errors="replace") for path in sorted(folder.rglob("*.md"))]
    for page in pages[:] * num_copies:
        rate = draw.choice(CHANGES)
        words = page.split(" ")
        pages.append(" ".join("changed" if draw.random() < rate else word for word in words))
    texts = (
        clean(page, "markdown", CleaningConfig(), MarkdownConfig(), Counter()) for page in pages
    )
    return [text for text in dict.fromkeys(texts) if text]


def compare(texts: list[str], folder: Path, is_complete: bool) -> dict[str, list[Any]]:
    """Return for each way what it leaves out, what only one of both does, and what is not alike."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    rows = np.stack([signature(text, CONFIG) for text in texts])
    order = np.arange(len(texts))
    of_machine = find_near_duplicates(rows, order, CONFIG.threshold)
    ours = folder / "ours"
    ours.mkdir()
    files = SignatureFiles.in_folder(ours, CONFIG, [len(rows)])
    files.write(0, [rows])
    assert files.find_near_duplicates(order, ThisMachine(Console(is_main=False))) == of_machine
    left_out = {"mlmtune, on one machine and by tasks": {pair.document for pair in of_machine}}
    config = MinhashConfig(num_buckets=files.num_bands, hashes_per_bucket=1)
    name = "datatrove's stages 2 and 3, our signatures"
    left_out[name] = left_out_by_datatrove(ours, folder / "of-ours", config)
    if is_complete:
        for bands, minima in ((files.num_bands, files.num_rows), (14, 8)):
            # Its default, xxhash, fails with xxhash 4.
            config = MinhashConfig(
                num_buckets=bands, hashes_per_bucket=minima,
                hash_config=HashConfig(hash_fc="sha1"),
            )  # fmt: skip
            theirs = folder / f"theirs-{bands}"
            step = MinhashDedupSignature(str(theirs), config=config, language="eng")
            step.run(Document(text=text, id=str(n)) for n, text in enumerate(texts))
            name = f"datatrove, {bands} bands of {minima}"
            left_out[name] = left_out_by_datatrove(theirs, folder / f"of-{bands}", config)
    sets = [shingles(text) for text in texts]
    (first, expected), *_ = left_out.items()
    compared = {}
    for name, documents in left_out.items():
        most = most_alike(rows, sets, documents)
        alike = f"{(most < 0.8).sum()} ({(most < 0.7).sum()})"
        only = [len(documents - expected), len(expected - documents)] if name != first else [0, 0]
        compared[name] = [len(documents), *only, alike]
    return compared


def left_out_by_datatrove(signatures: Path, folder: Path, config: Any) -> set[int]:
    """Run datatrove's stages 2 and 3, and return the documents that it removes."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupCluster

    pairs, removed = folder / "pairs", folder / "removed"
    step = MinhashDedupBuckets(str(signatures), str(pairs), config=config)
    for band in range(config.num_buckets):
        step.run(rank=band, world_size=config.num_buckets)
    MinhashDedupCluster(str(pairs), str(removed), config=config).run()
    files = removed.glob("*.remove")
    return {int(document) for path in files for document in np.fromfile(path, dtype="<u4")}


def most_alike(
    rows: NDArray[np.uint32], sets: list[set[int]], left_out: set[int]
) -> NDArray[np.float64]:
    """Return the Jaccard similarity of what is left out with the most similar that stays."""
    stays = np.setdiff1d(np.arange(len(rows)), list(left_out))
    most = []
    for document in left_out:
        likely = stays[(rows[stays] == rows[document]).mean(axis=1) > 0.4]
        one = sets[document]
        most.append(max((len(one & sets[n]) / len(one | sets[n]) for n in likely), default=0.0))
    return np.asarray(most)


def shingles(text: str) -> set[int]:
    hashes: set[int] = set()
    for _, words in word_windows(text, CONFIG.shingle):
        *_, of_window = ngram_hashes(words, min(CONFIG.shingle, len(words)))
        hashes |= set(of_window.tolist())
    return hashes


if __name__ == "__main__":
    main(benchmark)
