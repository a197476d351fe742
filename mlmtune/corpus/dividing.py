"""The division of a listing into parts, which are cleaned and stored one by one."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import xxhash

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.cleaning import CLEANING_VERSION
from mlmtune.corpus.decoding import Span, can_be_cut, count_line_ends
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.listing import ListedFile, ListedSource, describe_file
from mlmtune.corpus.optional_steps import libraries
from mlmtune.corpus.part_files import PartFiles
from mlmtune.corpus.parts import FORMAT_VERSION, Part
from mlmtune.corpus.remote import is_remote
from mlmtune.corpus.source_reader import SourceReader

PART_BYTES = 4 << 20  # takes some seconds to clean
PART_FILES = 1000
SPAN_BYTES = 64 << 20
"""A file of lines that is more than twice as large is cut into spans of this size."""


def plan_parts(
    sources: Sequence[ListedSource], config: CorpusConfig, place: PartFiles
) -> list[Part]:
    """Divide the files of sources into parts, in their order."""
    parts = []
    for index, listed in enumerate(sources):
        source = listed.source.config
        reader = SourceReader(source, config.cleaning, config.markdown, config.languages)
        if listed.dataset is not None:
            name = _name(reader, listed.dataset.signature.encode())
            parts.append(Part(place, name, index, reader, (), listed.dataset))
        for files in _divide(chain.from_iterable(_cut(file, source) for file in listed.files)):
            state = xxhash.xxh3_128()
            for file in files:
                state.update(file.path.encode("utf-8", "surrogateescape") + b"\0")
                state.update(describe_file(file))
                state.update(repr(file.span).encode())
            name = _name(reader, state.digest())
            parts.append(Part(place, name, index, reader, files, None))
    return parts


def _cut(file: ListedFile, source: SourceConfig) -> Iterator[ListedFile]:
    """Cut a large file of lines into spans, so that it makes several parts; yield others whole."""
    is_large = file.size > 2 * SPAN_BYTES and not is_remote(file.path)
    has_lines = is_large and format_of(source.format).has_lines(file.path)
    if not (has_lines and can_be_cut(file.path, source.encoding)):
        yield file
        return
    version = f"{file.version} {file.size}"
    for start in range(0, file.size, SPAN_BYTES):
        end = min(start + SPAN_BYTES, file.size)
        yield ListedFile(file.id, file.path, end - start, version, Span(start, end))


def with_line_numbers(parts: list[Part]) -> list[Part]:
    """Return the parts with the number of line ends before each span, which writing them needs."""
    # A set, because several sources may read the same file.
    starts_by_path: defaultdict[str, set[int]] = defaultdict(set)
    for part in parts:
        for file in part.files:
            if file.span is not None:
                starts_by_path[file.path].add(file.span.start)
    counts = {
        path: dict(zip(ascending, count_line_ends(path, ascending), strict=True))
        for path, starts in starts_by_path.items()
        for ascending in [sorted(starts)]
    }

    def counted(file: ListedFile) -> ListedFile:
        if file.span is None:
            return file
        num_line_ends = counts[file.path][file.span.start]
        return replace(file, span=file.span._replace(num_line_ends=num_line_ends))

    return [replace(part, files=tuple(map(counted, part.files))) for part in parts]


def _divide(files: Iterable[ListedFile]) -> Iterator[tuple[ListedFile, ...]]:
    """Group files so that adding or removing a file moves only the borders beside it."""
    group: list[ListedFile] = []
    num_bytes = 0
    for file in files:
        group.append(file)
        num_bytes += file.size
        may_end = num_bytes >= PART_BYTES // 4 or len(group) >= PART_FILES // 4
        # A border that depends on a name alone does not move with the files before it.
        ends_here = may_end and xxhash.xxh3_64_intdigest(os.fsencode(file.id)) % 8 == 0
        if ends_here or num_bytes >= PART_BYTES or len(group) >= PART_FILES:
            yield tuple(group)
            group, num_bytes = [], 0
    if group:
        yield tuple(group)


def _name(reader: SourceReader, content: bytes) -> str:
    """Return the name of a part's file."""
    source = reader.source.model_dump(
        include={"format", "encoding", "text_field", "record_path", "delimiter", "quoting",
                 "boilerplate", "outputs", "markup", "git", "dataset", "dataset_config", "split",
                 "streaming"}
    )  # fmt: skip
    if reader.source.streaming:
        source["max_documents"] = reader.source.max_documents
    sections = [reader.cleaning.model_dump(), reader.markdown.model_dump()]
    how = [source, *sections, reader.languages, libraries(reader.cleaning, reader.languages)]
    version = f"{FORMAT_VERSION}.{CLEANING_VERSION}"
    state = xxhash.xxh3_128(f"{version}\0{json.dumps(how, sort_keys=True)}\0".encode())
    if reader.source.dataset is None:
        state.update(format_of(reader.source.format).version.encode())
    state.update(content)
    digest = state.hexdigest()
    return f"{digest[:2]}/{digest[2:]}.parquet"  # two levels, because huge folders are slow
