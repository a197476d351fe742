"""The search for documents that share a band, cut into tasks that know each other by files alone.

    00007.signatures                 (n, P) uint32: the signatures of the documents of slice 7
    bucket_003/00007.minhash.sig     the value of band 3 (uint64) of each of these documents that
                                     has words, and its number in the slice (uint32); sorted

The second kind is what datatrove's `MinhashDedupBuckets` reads, as if a signature had one minimum
per band. It merges the files of a band, and writes the pairs of neighbours with the same value.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mlmtune.config import NearDuplicatesConfig
from mlmtune.corpus.engine import Engine, Work
from mlmtune.corpus.near_duplicates import (
    NearDuplicate,
    SharedBands,
    band_values,
    compare,
    of_words,
    rows_per_band,
)

NUM_SLICES = 512
"""The most files of a band, all of which a task holds open; systems allow 1,024 by default."""
DOCUMENTS_PER_SLICE = 4096
"""Fewer are not worth a file."""
DOCUMENTS_PER_SEARCH = 1 << 22
"""The number of documents of a search in a band, which takes about a minute."""

_RECORD = np.dtype([("value", "<u8"), ("document", "<u4")])
_NUM_VALUES = np.uint64((1 << 61) - 1)  # datatrove takes hashes below this
_LINES_AT_ONCE = 512


class Search(NamedTuple):
    """A range of the values of a band, as one of so many ranges."""

    band: int
    number: int
    num_ranges: int


@dataclass(frozen=True)
class SignatureFiles:
    """The signatures of the documents of a corpus, in a folder that all machines see.

    Attributes:
        folder: Where the files are.
        config: How documents are compared.
        sizes: The number of documents of each slice.
    """

    folder: Path
    config: NearDuplicatesConfig
    sizes: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """The number of minima in a band."""
        return rows_per_band(self.config.threshold, self.config.num_perm)

    @property
    def num_bands(self) -> int:
        """The number of bands."""
        return self.config.num_perm // self.num_rows

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(slices + 1,) The first document of each slice, then D."""
        return np.cumsum([0, *self.sizes])

    @classmethod
    def in_folder(cls, folder: Path, config: NearDuplicatesConfig, sizes: Sequence[int]) -> Self:
        """Prepare a folder for the files of slices of some sizes."""
        files = cls(folder, config, tuple(sizes))
        for band in range(files.num_bands):
            files.bucket(band).mkdir()
        return files

    def write(self, number: int, blocks: Iterable[NDArray[np.uint32]]) -> None:
        """Write the files of a slice, given as (n, P) signatures of some documents at a time."""
        values, are_of_words = [], []
        with self._signatures(number).open("wb") as file:
            for rows in blocks:
                file.write(rows.tobytes())
                bands = np.split(rows[:, : self.num_bands * self.num_rows], self.num_bands, axis=1)
                values.append([band_values(band) % _NUM_VALUES for band in bands])
                are_of_words.append([of_words(band) for band in bands])
        of_bands = zip(np.hstack(values), np.hstack(are_of_words), strict=True)
        for band, (of_band, is_of_words) in enumerate(of_bands):
            records = np.empty(len(of_band), dtype=_RECORD)
            records["value"], records["document"] = of_band, np.arange(len(of_band))
            records = records[is_of_words]
            # Stable, so that documents with the same value are ascending.
            records[np.argsort(records["value"], kind="stable")].tofile(self.band(band, number))

    def find_near_duplicates(self, order: NDArray[np.int64], engine: Engine) -> list[NearDuplicate]:
        """Do what `near_duplicates.find_near_duplicates` does, and leave the search to an engine.

        Only documents that share a band take memory here, and only their signatures are read.

        Raises:
            MlmtuneError: A task failed.
        """
        ranks = np.full(self.offsets[-1], len(order), dtype=np.uint32)
        ranks[order] = np.arange(len(order))
        searches = self._searches()
        found = engine.map(
            find_in_band,
            searches,
            self,
            Work("searching for near-duplicates", "document"),
            sizes=[len(order) // len(searches)] * len(searches),
        )
        with closing(found):
            shared = SharedBands.joined(
                (positions[is_asked].astype(np.uint64), values[is_asked])
                for documents, values in found
                for positions in (ranks[documents],)
                for is_asked in (positions < len(order),)
            )
        del ranks
        is_new = np.diff(shared.positions, prepend=~shared.positions[:1]) != 0
        documents = order[shared.positions[is_new]]
        if len(documents) == 0:
            return []
        shared = shared._replace(positions=np.cumsum(is_new, dtype=np.uint32) - np.uint32(1))
        with TemporaryFile(dir=self.folder) as file:
            rows = self._copy(documents, file)
            pairs = compare(rows, np.arange(len(documents)), shared, self.config.threshold)
        return [
            pair._replace(document=int(documents[pair.document]), kept=int(documents[pair.kept]))
            for pair in pairs
        ]

    def band(self, band: int, number: int) -> Path:
        """The file of a slice for a band."""
        return self.bucket(band) / f"{number:05d}.minhash.sig"

    def bucket(self, band: int) -> Path:
        """The folder of a band."""
        return self.folder / f"bucket_{band:03d}"

    def _signatures(self, number: int) -> Path:
        return self.folder / f"{number:05d}.signatures"

    def _searches(self) -> list[Search]:
        """Divide the search of all bands."""
        num_ranges = -(-int(self.offsets[-1]) // DOCUMENTS_PER_SEARCH)
        # Datatrove takes the borders of the ranges from the first file.
        smallest = min(self.band(band, 0).stat().st_size for band in range(self.num_bands))
        num_ranges = max(min(num_ranges, smallest // _RECORD.itemsize), 1)
        numbers = range(num_ranges)
        return [Search(band, n, num_ranges) for band in range(self.num_bands) for n in numbers]

    def _copy(self, documents: NDArray[np.int64], file: IO[bytes]) -> NDArray[np.uint32]:
        """Copy the signatures of some documents into a file, which is mapped as (n, P)."""
        width = self.config.num_perm
        numbers = np.searchsorted(self.offsets, documents, side="right") - 1
        borders = np.flatnonzero(np.diff(numbers, append=-1)) + 1
        for begin, end in pairwise([0, *borders.tolist()]):
            number = int(numbers[begin])
            rows = np.memmap(self._signatures(number), dtype=np.uint32, mode="r")
            for first in range(begin, end, DOCUMENTS_PER_SLICE):
                some = documents[first : min(first + DOCUMENTS_PER_SLICE, end)]
                file.write(rows.reshape(-1, width)[some - self.offsets[number]].tobytes())
        file.flush()
        return np.memmap(file, dtype=np.uint32, mode="r", shape=(len(documents), width))


def find_in_band(
    search: Search, files: SignatureFiles
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return (n,) documents that share a value of a band, and (n,) the number of the value.

    Raises:
        FileNotFoundError: Files are not yet visible on this machine.
    """
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets

    # A network file system may show a folder as it was a minute ago.
    if len(list(files.bucket(search.band).iterdir())) < len(files.sizes):
        raise FileNotFoundError(f"{files.bucket(search.band)}: files of other machines are missing")
    config = MinhashConfig(num_buckets=files.num_bands, hashes_per_bucket=1)
    with TemporaryDirectory() as folder:
        step = MinhashDedupBuckets(
            str(files.folder), folder, config=config, lines_to_buffer=_LINES_AT_ONCE
        )
        rank = search.band * search.num_ranges + search.number
        step.run(rank=rank, world_size=files.num_bands * search.num_ranges)
        [written] = Path(folder).iterdir()
        pairs = np.fromfile(written, dtype="<u4").reshape(-1, 4)
    first, second = (
        (files.offsets[pairs[:, n]] + pairs[:, n + 1]).astype(np.uint32) for n in (0, 2)
    )
    # Three documents with the same value are two pairs, one after the other.
    is_new = np.append(True, first[1:] != second[:-1])[: len(pairs)]
    values = np.cumsum(is_new) - 1
    return np.concatenate([first[is_new], second]), np.concatenate([values[is_new], values])


def in_slices(sizes: Sequence[int]) -> list[slice]:
    """Divide blocks of documents into slices of similar size."""
    total = sum(sizes)
    num_slices = max(min(NUM_SLICES, total // DOCUMENTS_PER_SLICE), 1)
    numbers = (np.cumsum(sizes) - 1) * num_slices // max(total, 1)
    borders = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    return [slice(begin, end) for begin, end in pairwise([*borders, len(sizes)])]
