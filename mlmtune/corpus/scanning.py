"""Scanning: the files and datasets of each source are listed once, before any is read."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus import git, hub_datasets, remote
from mlmtune.corpus.decoding import uncompressed_name
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.listing import ListedFile, ListedSource, Listing, PassedOver
from mlmtune.corpus.sources import CorpusSource, all_sources
from mlmtune.corpus.walking import Selection, Walk, ending_of
from mlmtune.errors import DataError
from mlmtune.printable import counted
from mlmtune.redaction import public_location


def scan(
    sources: Iterable[CorpusSource],
    git_cache: Path,
    say: Callable[[str], None],
    *,
    refresh: bool = False,
) -> Listing:
    """List the files of every source, in an order that is the same on every machine.

    Folders are walked to any depth, except links that lead out of them and the folders of version
    control. Files of git repositories are fetched unless they are in the cache.

    Args:
        sources: all sources of a corpus, in its order (`all_sources`).
        git_cache: the folder of repositories.
        say: is called with a line about what takes time.
        refresh: whether the branches of git repositories are looked up again.

    Raises:
        DataError: a path does not exist, or no file of a source matches.
        ConfigError: a `package://` path cannot be resolved, or a program or plugin is missing.
        HubError: a repository, dataset or remote location cannot be reached.
    """
    listed = [_list_source(source, git_cache, say, refresh) for source in sources]
    of_corpus = tuple(each for each in listed if each.source.role != "reference")
    references = tuple(each for each in listed if each.source.role == "reference")
    for each in of_corpus:
        for line in _misreadings(each):
            say(line)
    return Listing(of_corpus, references)


def _list_source(
    source: CorpusSource, git_cache: Path, say: Callable[[str], None], refresh: bool
) -> ListedSource:
    config, key = source.config, source.key
    if config.dataset is not None:
        return ListedSource(source, (), dataset=hub_datasets.locate(config, key, say))
    if config.git is not None:
        return ListedSource(source, *_fetch_source(config, key, git_cache, say, refresh))
    files, passed_over, endings = _scan_source(config, key)
    return ListedSource(source, files, passed_over, endings_not_read=endings)


def check_paths(config: CorpusConfig) -> None:
    """Refuse paths on this machine that do not exist, before anything is listed or fetched.

    Raises:
        DataError: a path does not exist.
        ConfigError: a `package://` path cannot be resolved.
    """
    for source in all_sources(config):
        for location in source.config.locations if source.config.path is not None else ():
            if not remote.is_remote(location):
                Walk(location, Selection(source.config), source.key)


def _fetch_source(
    source: SourceConfig, where: str, cache: Path, say: Callable[[str], None], refresh: bool
) -> tuple[tuple[ListedFile, ...], tuple[PassedOver, ...]]:
    """Fetch the files of a git repository and list them by id, with what is passed over."""
    assert source.git is not None
    selects = Selection(source)
    wanted = git.WantedFiles(source.git, source.revision, selects, selects.name)
    checkout = git.fetch(wanted, cache, say, refresh=refresh)
    files = []
    for folder, _, names in os.walk(checkout.folder):
        for name in names:
            path = os.path.join(folder, name)
            below = os.path.relpath(path, checkout.folder)
            files.append(ListedFile(below, path, os.lstat(path).st_size, checkout.commit))
    if not files and not checkout.passed_over:
        raise DataError(
            f"{where}.git: no file at commit {checkout.commit[:12]} matches "
            f"{', '.join(selects.patterns)}; set {where}.include"
        )
    return tuple(sorted(files, key=lambda file: file.id)), checkout.passed_over


def _scan_source(
    source: SourceConfig, where: str
) -> tuple[tuple[ListedFile, ...], tuple[PassedOver, ...], Counter[str]]:
    """List the files of one source by id; `where` is its key in the config.

    Returns:
        The files, what is passed over, and how many files have an ending that is not read.
    """
    selects = Selection(source)
    local = [path for path in source.locations if not remote.is_remote(path)]
    walks = [Walk(location, selects, where) for location in local]
    # Ids of several paths are told apart by the folders that their roots do not share.
    common = os.path.commonpath([walk.root for walk in walks]) if walks else ""
    files: dict[str, ListedFile] = {}
    passed_over: dict[str, PassedOver] = {}
    endings_seen: Counter[str] = Counter()
    endings_not_read: Counter[str] = Counter()
    for walk in walks:
        prefix = PurePosixPath(os.path.relpath(walk.root, common).replace(os.sep, "/"))
        for below, path, outcome in walk.entries():
            if isinstance(outcome, PassedOver):
                passed_over.setdefault(path, outcome)
            else:
                file_id = str(prefix / below)
                # A link or a second path may lead to it again, and folders have no fixed order.
                if path in files:
                    file_id = min(file_id, files[path].id)
                version = str(outcome.st_mtime_ns)
                files[path] = ListedFile(file_id, path, outcome.st_size, version)
        endings_seen += walk.endings_passed
        if source.include is None and walk.is_folder:
            endings_not_read += walk.endings_passed

    def selects_remote(below: str) -> bool:
        if not selects(below) and source.include is None and not selects.excludes(below):
            endings_not_read[ending_of(below)] += 1
        return selects(below)

    for location in source.locations:
        if remote.is_remote(location):
            for file in remote.list_remote(location, selects_remote, where):
                # Several locations may hold files of the same name.
                file_id = file.id if len(source.locations) == 1 else public_location(file.url)
                files[file.url] = ListedFile(file_id, file.url, file.size or 0, file.version)
    if not files and not passed_over:
        raise _nothing_matched(source, where, endings_seen)
    return (
        tuple(sorted(files.values(), key=lambda file: file.id)),
        tuple(sorted(passed_over.values(), key=lambda entry: entry.path)),
        endings_not_read,
    )


# By the ending of files that are not plain text: what the model would be trained on, and what to do
# instead. Files such as `.pdf` are recognised by their first bytes.
_MISREAD: dict[tuple[str, ...], tuple[str, str]] = {
    (".html", ".htm", ".xhtml", ".xml"): ("the tags as well", "set markup: html"),
    (".ipynb",): (
        "JSON, with its keys, outputs and encoded images",
        "convert them to Markdown (jupyter nbconvert --to markdown)",
    ),
    (".json", ".jsonl", ".ndjson"): ("JSON, with its keys and quotes", "set format: json"),
    (".csv", ".tsv"): ("all columns with their delimiters", "set format: csv"),
    (".md", ".markdown", ".mdx"): ("the marks of Markdown as well", "set format: markdown"),
    (".tex",): ("the commands of TeX as well", "convert them to text"),
}


def _misreadings(listed: ListedSource) -> Iterator[str]:
    """Describe each kind of file that is read as plain text but is something else."""
    name, config = listed.source.name, listed.source.config
    if listed.dataset is not None or not format_of(config.format).is_plain_text:
        return
    endings = Counter(PurePosixPath(uncompressed_name(file.path)).suffix for file in listed.files)
    for kinds, (trained_on, remedy) in _MISREAD.items():
        num_files = sum(endings[ending] for ending in kinds)
        if not num_files or (config.markup == "html" and remedy.endswith("html")):
            continue
        kinds_read = " and ".join(ending for ending in kinds if endings[ending])
        yield (
            f"{name}: {counted(num_files, 'file')} ({kinds_read}) read "
            f"with format: {config.format}: the model is trained on {trained_on}; {remedy}"
        )


def _nothing_matched(source: SourceConfig, where: str, endings: Counter[str]) -> DataError:
    paths = ", ".join(source.locations)
    wanted = ", ".join(Selection(source).patterns)
    counts = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(5))
    seen = f"the files there are: {counts}" if counts else "there is no file at all"
    return DataError(
        f"{where}.path: no file below {paths} matches {wanted}; {seen}; "
        f"set {where}.include or another format"
    )
