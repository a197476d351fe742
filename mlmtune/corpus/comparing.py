"""Compares the texts of documents with references and with each other.

Each text is read once, for its signature and for the words that it shares with the references.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus.band_search import SignatureFiles, in_slices
from mlmtune.corpus.engine import Engine, Work
from mlmtune.corpus.near_duplicates import NearDuplicate, find_near_duplicates, signature
from mlmtune.corpus.overlap import OverlapIndex
from mlmtune.corpus.parts import Part, read_part

Block = tuple[Part, NDArray[np.int64]]
"""A part, and the documents of it that are compared, as rows."""
Overlaps = list[tuple[int, str]]
"""The documents of a block that overlap with a reference: their places in it, and shared words."""


class Comparison(NamedTuple):
    """What was found in the texts of some blocks, whose documents are numbered from 0.

    Attributes:
        overlaps: What overlaps, for each block.
        find_near_duplicates: Takes (n,) documents, of which those that come first stay, and finds
            the near-duplicates among them.
    """

    overlaps: list[Overlaps]
    find_near_duplicates: Callable[[NDArray[np.int64]], list[NearDuplicate]]


@contextmanager
def compared(
    blocks: list[Block],
    index: OverlapIndex | None,
    near: NearDuplicatesConfig | None,
    folder: Path,
    engine: Engine,
    work: Work,
) -> Iterator[Comparison]:
    """Read the texts of all blocks with an engine, and keep their signatures within a context.

    Args:
        blocks: The documents.
        index: The references; None without any.
        near: How documents are compared; None if they are not compared with each other.
        folder: Holds temporary files; all machines of the engine see it.
        engine: Where the work is done.
        work: What a person reads about it.
    """
    prefix = "signatures-"
    if engine.is_remote:
        with tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as directory:
            yield _compared_elsewhere(blocks, index, near, Path(directory), engine, work)
    else:
        # On disk, because signatures are larger than all other numbers of a document.
        with tempfile.TemporaryFile(dir=folder, prefix=prefix) as file:
            yield _compared_here(blocks, index, near, file, engine, work)


def _compared_here(
    blocks: list[Block],
    index: OverlapIndex | None,
    near: NearDuplicatesConfig | None,
    file: IO[bytes],
    engine: Engine,
    work: Work,
) -> Comparison:
    """Collect the signatures in a file."""
    overlaps: list[Overlaps] = []
    sizes = [len(rows) for _, rows in blocks]
    with closing(engine.map(_examine, blocks, (index, near), work, sizes=sizes)) as examined:
        for of_block, signatures in examined:
            overlaps.append(of_block)
            file.write(signatures.tobytes())
    file.flush()

    def find(order: NDArray[np.int64]) -> list[NearDuplicate]:
        assert near is not None
        shape = (sum(sizes), near.num_perm)
        rows = np.memmap(file, dtype=np.uint32, mode="r", shape=shape)
        return find_near_duplicates(rows, order, near.threshold)

    return Comparison(overlaps, find)


def _compared_elsewhere(
    blocks: list[Block],
    index: OverlapIndex | None,
    near: NearDuplicatesConfig | None,
    folder: Path,
    engine: Engine,
    work: Work,
) -> Comparison:
    """Leave the signatures where they are computed, and the search to the engine."""
    slices = in_slices([len(rows) for _, rows in blocks])
    sizes = [sum(len(rows) for _, rows in blocks[part]) for part in slices]
    files = None if near is None else SignatureFiles.in_folder(folder, near, sizes)
    items = [(number, blocks[part]) for number, part in enumerate(slices)]
    with closing(
        engine.map(_examine_elsewhere, items, (index, files), work, sizes=sizes)
    ) as examined:
        overlaps = list(chain.from_iterable(examined))

    def find(order: NDArray[np.int64]) -> list[NearDuplicate]:
        assert files is not None
        return files.find_near_duplicates(order, engine)

    return Comparison(overlaps, find)


def _examine(
    block: Block, shared: tuple[OverlapIndex | None, NearDuplicatesConfig | None]
) -> tuple[Overlaps, NDArray[np.uint32]]:
    """Return what overlaps, and the (n, num_perm) signatures of all n documents of a block."""
    (part, rows), (index, near) = block, shared
    overlaps: Overlaps = []
    signatures = np.empty((len(rows), near.num_perm if near else 0), dtype=np.uint32)
    for row, (_, text) in enumerate(read_part(part, rows)):
        words = index.first_shared(text) if index is not None else None
        if words is not None:
            overlaps.append((row, words))
        if near is not None:
            signatures[row] = signature(text, near)
    return overlaps, signatures


def _examine_elsewhere(
    item: tuple[int, list[Block]], shared: tuple[OverlapIndex | None, SignatureFiles | None]
) -> list[Overlaps]:
    """Return what overlaps in the blocks of a slice, and write the signatures into its files."""
    (number, blocks), (index, files) = item, shared
    near = files.config if files is not None else None
    overlaps: list[Overlaps] = []

    def signatures() -> Iterator[NDArray[np.uint32]]:
        for block in blocks:
            of_block, rows = _examine(block, (index, near))
            overlaps.append(of_block)
            yield rows

    if files is not None:
        files.write(number, signatures())
    else:
        deque(signatures(), maxlen=0)
    return overlaps
