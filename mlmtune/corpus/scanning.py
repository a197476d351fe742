"""The scan that lists the files and datasets of all sources, before any is read."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mlmtune.config import CorpusConfig
from mlmtune.corpus import git, hub_datasets, remote
from mlmtune.corpus.compression import uncompressed_name
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
    control. Files of git repositories are fetched unless they are in the cache; with `refresh`, the
    branches of repositories are looked up again.

    Raises:
        DataError: A path does not exist, or no file of a source matches.
        ConfigError: A `package://` path cannot be resolved, or a program or plugin is missing.
        HubError: A repository, dataset or remote location cannot be reached.
    """
    listed_sources = []
    for source in sources:
        if source.config.dataset is not None:
            dataset = hub_datasets.locate(source.config, source.key, say)
            listed = ListedSource(source, (), dataset=dataset)
        elif source.config.git is not None:
            listed = _fetch_repository(source, git_cache, say, refresh)
        else:
            listed = _list_paths(source)
        listed_sources.append(listed)
    listed_sources = list(_with_each_ending_once(listed_sources))
    of_corpus = tuple(each for each in listed_sources if each.source.role != "reference")
    references = tuple(each for each in listed_sources if each.source.role == "reference")
    for listed in of_corpus:
        for line in _misreadings(listed):
            say(line)
    return Listing(of_corpus, references)


def _with_each_ending_once(sources: Sequence[ListedSource]) -> Iterator[ListedSource]:
    """Yield sources so that several formats of one folder do not count what the others read."""
    by_place: defaultdict[tuple[str, ...], list[ListedSource]] = defaultdict(list)
    for listed in sources:
        by_place[tuple(listed.source.config.locations)].append(listed)
    endings: dict[str, Counter[str]] = {}
    for first, *others in by_place.values():
        if others:
            read = {ending_of(file.id) for each in (first, *others) for file in each.files}
            left = {e: n for e, n in first.endings_not_read.items() if e not in read}
            endings |= {each.source.key: Counter() for each in others}
            endings[first.source.key] = Counter(left)
    for listed in sources:
        own = listed.endings_not_read
        yield replace(listed, endings_not_read=endings.get(listed.source.key, own))


def check_paths(config: CorpusConfig) -> None:
    """Refuse paths on this machine that do not exist, before anything is listed or fetched.

    Raises:
        DataError: A path does not exist.
        ConfigError: A `package://` path cannot be resolved.
    """
    for source in all_sources(config):
        for location in source.config.locations if source.config.path is not None else ():
            if not remote.is_remote(location):
                Walk(location, Selection(source.config), source.key)


def _fetch_repository(
    source: CorpusSource, cache: Path, say: Callable[[str], None], refresh: bool
) -> ListedSource:
    """Fetch the files of a git repository, and list them by id."""
    config = source.config
    assert config.git is not None
    selects = Selection(config)
    wanted = git.WantedFiles(config.git, config.revision, selects, selects.name)
    checkout = git.fetch(wanted, cache, say, refresh=refresh)
    files = []
    for folder, _, names in os.walk(checkout.folder):
        for name in names:
            path = os.path.join(folder, name)
            below = os.path.relpath(path, checkout.folder)
            files.append(ListedFile(below, path, os.lstat(path).st_size, checkout.commit))
    if not files and not checkout.passed_over:
        raise DataError(
            f"{source.key}.git: no file at commit {checkout.commit[:12]} matches "
            f"{', '.join(selects.patterns)}; set {source.key}.include"
        )
    ordered = tuple(sorted(files, key=lambda file: file.id))
    return ListedSource(source, ordered, checkout.passed_over)


def _list_paths(source: CorpusSource) -> ListedSource:
    """List the files below the paths of a source by id, and count endings that are not read."""
    config, where = source.config, source.key
    selects = Selection(config)
    local = [path for path in config.locations if not remote.is_remote(path)]
    walks = [Walk(location, selects, where) for location in local]
    # Ids of several paths differ by the folders that the paths do not share.
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
        if config.include is None and walk.is_folder:
            endings_not_read += walk.endings_passed

    def selects_remote(below: str) -> bool:
        if not selects(below) and config.include is None and not selects.excludes(below):
            endings_not_read[ending_of(below)] += 1
        return selects(below)

    for location in config.locations:
        if remote.is_remote(location):
            for file in remote.list_remote(location, selects_remote, where):
                # Several locations may hold files of the same name.
                file_id = file.id if len(config.locations) == 1 else public_location(file.url)
                files[file.url] = ListedFile(file_id, file.url, file.size or 0, file.version)
    if not files and not passed_over:
        raise _nothing_matched(source, selects, endings_seen)
    return ListedSource(
        source,
        tuple(sorted(files.values(), key=lambda file: file.id)),
        tuple(sorted(passed_over.values(), key=lambda entry: entry.path)),
        endings_not_read=endings_not_read,
    )


# What a model would be trained on if files with these endings are read as plain text, and what to
# do instead. Files such as `.pdf` are recognised by their first bytes.
_MISREAD: dict[tuple[str, ...], tuple[str, str]] = {
    (".html", ".htm", ".xhtml"): ("the tags as well", "set format: html"),
    (".xml",): ("the tags as well", "set markup: html"),
    (".ipynb",): ("JSON, with its keys, outputs and encoded images", "set format: notebook"),
    (".rst",): ("the marks of reStructuredText as well", "set format: rst"),
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


def _nothing_matched(source: CorpusSource, selects: Selection, endings: Counter[str]) -> DataError:
    counts = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(5))
    seen = f"the files there are: {counts}" if counts else "there is no file at all"
    return DataError(
        f"{source.key}.path: no file below {', '.join(source.config.locations)} matches "
        f"{', '.join(selects.patterns)}; {seen}; set {source.key}.include or another format"
    )
