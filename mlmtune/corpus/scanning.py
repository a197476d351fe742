"""What makes up the corpus: files and datasets, found once, in a fixed order, before it is read."""

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath

import xxhash

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus import git, hub, remote
from mlmtune.corpus.compression import COMPRESSIONS
from mlmtune.corpus.decoding import Span, uncompressed_name
from mlmtune.corpus.formats import format_of
from mlmtune.errors import DataError
from mlmtune.locations import resolve
from mlmtune.printable import counted, printable
from mlmtune.redaction import public_location, without_secrets

_VERSION_CONTROL_FOLDERS = frozenset((".git", ".hg", ".svn"))
_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that is to be read.

    Attributes:
        id: path below the source's root, with `/`; names the file within its source.
        path: where it is: a path, or a URL for `remote`.
        size: bytes; 0 where a server does not tell.
        version: changes with the content: time of the last change, commit, entity tag.
        span: which of its lines are meant; None for all of it.
    """

    id: str
    path: str
    size: int
    version: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A place that was found and will not be read: a pipe, a link that leads out, ..."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ListedSource:
    """What one source holds.

    Attributes:
        config: the source in the config.
        name: its name in reports; no other source has it.
        validation: it is one of `validation_sources`.
        files: sorted by id.
        passed_over: what matched but cannot be read.
        dataset: in the place of files, where the source is a dataset.
        endings_not_read: how many files of its folders have an ending that is not read, by ending.
    """

    config: SourceConfig
    name: str
    validation: bool
    files: tuple[ListedFile, ...]
    passed_over: tuple[PassedOver, ...] = ()
    dataset: hub.ListedDataset | None = None
    endings_not_read: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listing:
    """All that the corpus is made of.

    Attributes:
        sources: those of `validation_sources` first.
        references: those of `exclude_overlap_with`.
    """

    sources: tuple[ListedSource, ...]
    references: tuple[ListedSource, ...] = ()

    def place(self) -> str:
        """A digest of where the files are."""
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            for file in source.files:
                state.update(file.path.encode("utf-8", "surrogateescape") + b"\0")
        return state.hexdigest()

    def signature(self) -> str:
        """A digest of every file's source, id, size, version, and whether it may be read.

        Not of where it is: the same files may lie elsewhere on another machine.
        """
        state = xxhash.xxh3_128()
        for source in (*self.sources, *self.references):
            state.update(f"{source.name}\0{source.validation}\0{len(source.files)}\0".encode())
            for file in source.files:
                state.update(describe_file(file))
            for place in source.passed_over:
                state.update(f"{place.path}\0{place.reason}\0".encode("utf-8", "surrogateescape"))
            if source.dataset is not None:
                state.update(source.dataset.signature.encode())
        return state.hexdigest()


def describe_file(file: ListedFile) -> bytes:
    """What a file's content follows from, for a digest."""
    # A file whose permission is mended keeps its size and time.
    is_readable = remote.is_remote(file.path) or os.access(file.path, os.R_OK)
    line = f"{file.id}\0{file.size}\0{file.version}\0{is_readable}\0"
    return line.encode("utf-8", "surrogateescape")


def scan(
    config: CorpusConfig, git_cache: Path, say: Callable[[str], None], *, refresh: bool = False
) -> Listing:
    """List the files of every source, in an order that is the same on every machine.

    Folders are walked to their depths, but for links out of them and version control's own folders.
    Files of git repositories are fetched where they are not in the cache yet.

    Args:
        config: the section `corpus`.
        git_cache: where repositories are kept.
        say: told in one line what takes time.
        refresh: look up again where branches of git repositories are.

    Raises:
        DataError: a path does not exist, or no file of a source matches.
        ConfigError: a `package://` path cannot be resolved, or a program or plugin is missing.
        HubError: a repository, dataset or remote location cannot be reached.
    """
    named: set[str] = set()

    def listed(section: str, sources: list[SourceConfig]) -> Iterator[ListedSource]:
        for index, source in enumerate(sources):
            numbers = count(2)
            name = wanted = source_name(source)
            while name in named:
                name = f"{wanted} ({next(numbers)})"
            named.add(name)
            validation = section == "validation_sources"
            where = f"corpus.{section}[{index}]"
            if source.dataset is not None:
                dataset = hub.locate(source, where, say)
                yield ListedSource(source, name, validation, (), dataset=dataset)
            elif source.git is not None:
                files, passed_over = _fetch_source(source, where, git_cache, say, refresh)
                yield ListedSource(source, name, validation, files, passed_over)
            else:
                files, passed_over, endings = _scan_source(source, where)
                yield ListedSource(
                    source, name, validation, files, passed_over, endings_not_read=endings
                )

    validation = tuple(listed("validation_sources", config.validation_sources))
    training = tuple(listed("sources", config.sources))
    references = tuple(listed("exclude_overlap_with", config.exclude_overlap_with))
    for source in (*validation, *training):
        for line in _misreadings(source):
            say(line)
    return Listing((*validation, *training), references)


def source_name(source: SourceConfig) -> str:
    """What a source is called wherever it is named: without secrets, in a form that prints."""
    name = source.name or ", ".join(map(public_location, source.places))
    return printable(without_secrets(name))


def check_paths(config: CorpusConfig) -> None:
    """Refuse paths on this machine that do not exist, before anything is listed or fetched.

    Raises:
        DataError: one does not exist.
        ConfigError: a `package://` path cannot be resolved.
    """
    for section in ("validation_sources", "sources", "exclude_overlap_with"):
        for index, source in enumerate(getattr(config, section)):
            for location in source.places if source.path is not None else ():
                if not remote.is_remote(location):
                    _Walk(location, _Selection(source), f"corpus.{section}[{index}]")


def _fetch_source(
    source: SourceConfig, where: str, cache: Path, say: Callable[[str], None], refresh: bool
) -> tuple[tuple[ListedFile, ...], tuple[PassedOver, ...]]:
    """The files of a git repository, fetched; see `_scan_source`."""
    assert source.git is not None
    selects = _Selection(source)
    checkout = git.fetch(
        source.git, source.revision, selects, selects.name, cache, say, refresh=refresh
    )
    files = []
    for folder, _, names in os.walk(checkout.folder):
        for name in names:
            path = os.path.join(folder, name)
            below = os.path.relpath(path, checkout.folder)
            files.append(ListedFile(below, path, os.lstat(path).st_size, checkout.commit))
    passed_over = tuple(PassedOver(*entry) for entry in checkout.passed_over)
    if not files and not passed_over:
        raise DataError(
            f"{where}.git: no file at commit {checkout.commit[:12]} matches "
            f"{', '.join(selects.patterns)}; set {where}.include"
        )
    return tuple(sorted(files, key=lambda file: file.id)), passed_over


def _scan_source(
    source: SourceConfig, where: str
) -> tuple[tuple[ListedFile, ...], tuple[PassedOver, ...], Counter[str]]:
    """The files of one source, by id; `where` is its place in the config.

    Returns:
        The files, what is passed over, and how many files have an ending that is not read.
    """
    selects = _Selection(source)
    local = [path for path in source.places if not remote.is_remote(path)]
    walks = [_Walk(location, selects, where) for location in local]
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
                # Found twice, through a link or a second path: folders are listed in no order.
                if path in files:
                    file_id = min(file_id, files[path].id)
                version = str(outcome.st_mtime_ns)
                files[path] = ListedFile(file_id, path, outcome.st_size, version)
        endings_seen += walk.endings_passed
        if source.include is None and walk.is_folder:
            endings_not_read += walk.endings_passed

    def selects_remote(below: str) -> bool:
        if not selects(below) and source.include is None and not selects.excludes(below):
            endings_not_read[_ending(below)] += 1
        return selects(below)

    for location in source.places:
        if remote.is_remote(location):
            for found in remote.list_remote(location, selects_remote, where):
                # Ids of several places are told apart by the places.
                file_id = found.id if len(source.places) == 1 else public_location(found.url)
                files[found.url] = ListedFile(file_id, found.url, found.size or 0, found.version)
    if not files and not passed_over:
        raise _nothing_matched(source, where, endings_seen)
    return (
        tuple(sorted(files.values(), key=lambda file: file.id)),
        tuple(sorted(passed_over.values(), key=lambda entry: entry.path)),
        endings_not_read,
    )


class _Selection:
    """Whether a source wants a file, by its path below the source's root.

    Attributes:
        patterns: what it goes by, for people.
        name: the same for the same choice.
    """

    def __init__(self, source: SourceConfig) -> None:
        self._exclude = [_matcher(glob) for glob in source.exclude]
        if source.include is None:
            endings = format_of(source.format).file_endings
            self.patterns: tuple[str, ...] = endings
            self.includes: Callable[[str], bool] = lambda below: below.lower().endswith(endings)
        else:
            includes = [_matcher(glob) for glob in source.include]
            self.patterns = tuple(source.include)
            self.includes = lambda below: any(matches(below) for matches in includes)
        self.name = xxhash.xxh3_64_hexdigest(repr((self.patterns, source.exclude)).encode())

    def __call__(self, below: str) -> bool:
        return self.includes(below) and not self.excludes(below)

    def excludes(self, below: str) -> bool:
        """Whether a file, or a folder with all in it, is left out whatever its name."""
        return any(excludes(below) for excludes in self._exclude)


class _Walk:
    """One path of a source: a file, a folder, or a glob.

    Attributes:
        root: the folder that ids start from, with links resolved.
        is_folder: all of a folder is meant, whose files are selected by their endings.
        endings_passed: how many files of each ending did not match.
    """

    def __init__(self, location: str, selects: _Selection, where: str) -> None:
        fixed, pattern = _split_glob(location)
        path = resolve(fixed)
        if not os.path.lexists(path):
            raise DataError(f"{where}.path: {fixed} does not exist{_nearest(path)}")
        self.endings_passed: Counter[str] = Counter()
        self._selects = selects
        self._named_file: str | None = None
        if os.path.isdir(path):
            self.root = os.path.realpath(path)
        else:
            # The folder may be a link, the file itself is looked at as it is.
            self.root = os.path.realpath(path.parent)
            self._named_file = path.name
        self._glob = re.compile(_translate(pattern)) if pattern else None
        self._unmatched_glob = f"{where}.path: nothing matches the glob {location}"
        self.is_folder = self._named_file is None and not pattern
        self._max_depth = None if not pattern or "**" in pattern else pattern.count("/")

    def entries(self) -> Iterator[tuple[str, str, os.stat_result | PassedOver]]:
        """(path below the root, real path, status or why it is passed over) of what matches.

        Raises:
            DataError: it is a glob, and no file and no folder matches it.
        """
        if self._named_file is not None:
            path = os.path.join(self.root, self._named_file)
            # Named by the user: a link may lead where it will.
            real = os.path.realpath(path)
            yield self._named_file, real, _status(real, real)
            return
        # A stack in place of recursion: folders may be nested more deeply than calls. With each
        # folder goes whether the source names it, or one above it.
        stack = [("", self._glob is None)]
        anything_fits = self._glob is None
        while stack:
            below, matched = stack.pop()
            folder = os.path.join(self.root, below)
            try:
                with os.scandir(folder) as iterator:
                    entries = list(iterator)
            except OSError as error:
                yield below, folder, PassedOver(folder, "unreadable", error.strerror or str(error))
                continue
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                if self._selects.excludes(name):
                    continue
                fits = self._glob is not None and self._glob.fullmatch(name) is not None
                anything_fits |= fits
                if entry.is_dir(follow_symlinks=False):
                    deeper = self._max_depth is None or name.count("/") < self._max_depth
                    if entry.name not in _VERSION_CONTROL_FOLDERS and (matched or fits or deeper):
                        stack.append((name, matched or fits))
                    continue
                if not (fits or (matched and self._selects.includes(name))):
                    if not entry.is_symlink():
                        self.endings_passed[_ending(name)] += 1
                    continue
                outcome = self._entry(entry)
                if outcome is not None:
                    yield name, *outcome
        if not anything_fits:
            raise DataError(f"{self._unmatched_glob}; correct it, or name the folder itself")

    def _entry(self, entry: os.DirEntry[str]) -> tuple[str, os.stat_result | PassedOver] | None:
        """Real path and status of what matches and is no folder."""
        if not entry.is_symlink():
            return entry.path, _status(entry.path, entry.path)
        real = os.path.realpath(entry.path)
        if not Path(real).is_relative_to(self.root):
            detail = f"a link to {real}, outside of {self.root}"
            return entry.path, PassedOver(entry.path, "link_outside", detail)
        if os.path.isdir(real):
            return None  # is walked where it really is
        return real, _status(real, entry.path)


def _ending(name: str) -> str:
    """The ending of a file's name in small letters, with that of a compression; or `none`."""
    path = PurePosixPath(name.lower())
    is_compressed = path.suffix in COMPRESSIONS
    ending = PurePosixPath(path.stem).suffix * is_compressed + path.suffix
    return printable(ending) or "none"


# What formats of plain text make of other files: what the model would be trained on, and what to
# do instead. Files like `.pdf` are recognised by their first bytes.
_MISREAD: dict[tuple[str, ...], tuple[str, str]] = {
    (".html", ".htm", ".xhtml", ".xml"): ("tags, too", "set markup: html"),
    (".ipynb",): (
        "JSON: its keys, outputs and encoded images, too",
        "convert them to Markdown (jupyter nbconvert --to markdown)",
    ),
    (".json", ".jsonl", ".ndjson"): ("JSON: its keys and quotes, too", "set format: json"),
    (".csv", ".tsv"): ("all columns with their delimiters", "set format: csv"),
    (".md", ".markdown", ".mdx"): ("the marks of Markdown, too", "set format: markdown"),
    (".tex",): ("the commands of TeX, too", "convert them to text"),
}


def _misreadings(source: ListedSource) -> Iterator[str]:
    """A line for each kind of file that is read as plain text and is something else."""
    if source.dataset is not None or not format_of(source.config.format).is_plain_text:
        return
    endings = Counter(PurePosixPath(uncompressed_name(file.path)).suffix for file in source.files)
    for kinds, (trained_on, remedy) in _MISREAD.items():
        num_files = sum(endings[ending] for ending in kinds)
        if not num_files or (source.config.markup == "html" and remedy.endswith("html")):
            continue
        there = " and ".join(ending for ending in kinds if endings[ending])
        yield (
            f"{source.name}: {counted(num_files, 'file')} ({there}) read "
            f"with format: {source.config.format}: the model is trained on {trained_on}; {remedy}"
        )


def _status(path: str, shown: str) -> os.stat_result | PassedOver:
    """Size and time of a regular file."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return PassedOver(shown, "link_broken", error.strerror or str(error))
    if stat.S_ISLNK(status.st_mode):
        return PassedOver(shown, "link_broken", "a link to itself")
    if not stat.S_ISREG(status.st_mode):
        return PassedOver(shown, "not_a_file", "a pipe, socket or device")
    return status


def _split_glob(location: str) -> tuple[str, str]:
    """The part before the first wildcard, and the pattern below it (empty for a plain path)."""
    if not _WILDCARDS.search(location) or os.path.lexists(os.path.expanduser(location)):
        return location, ""
    parts = location.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARDS.search(part))
    fixed = "/".join(parts[:first])
    if not fixed:
        fixed = "/" if location.startswith("/") else "."
    return fixed, "/".join(parts[first:])


def _matcher(glob: str) -> Callable[[str], bool]:
    """Whether a path below a folder matches a glob, or lies in a folder that does.

    As in .gitignore: a glob without `/` speaks of names at any depth, one with `/` of the path from
    the top; `**` stands for any number of folders.
    """
    glob = glob.removeprefix("./")
    pattern = glob.strip("/")
    anywhere = "/" not in glob.rstrip("/")
    expression = re.compile(("(?:.*/)?" if anywhere else "") + _translate(pattern) + "(?:/.*)?")
    return lambda below: expression.fullmatch(below) is not None


def _translate(glob: str) -> str:
    """The regular expression of a glob whose `*` and `?` stay within a name."""
    result, place = "", 0
    while place < len(glob):
        if glob.startswith("**/", place):
            result, place = result + "(?:.*/)?", place + 3
        elif glob.startswith("**", place):
            result, place = result + ".*", place + 2
        elif found := re.compile(r"\[(!?)(\]?[^]]*)\]").match(glob, place):
            characters = (
                found[2]
                .replace("\\", "\\\\")
                .replace("[", "\\[")
                .replace("^", "\\^")
                .replace("]", "\\]")
            )
            result, place = f"{result}[{'^' if found[1] else ''}{characters}]", found.end()
        else:
            wildcards = {"*": "[^/]*", "?": "[^/]"}
            result, place = result + wildcards.get(glob[place], re.escape(glob[place])), place + 1
    return result


def _nearest(path: Path) -> str:
    """A hint: the nearest folder that exists, and what in it has a similar name."""
    missing = path.absolute()
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    folder = missing.parent
    hint = f"; the nearest that exists is {folder}"
    names = os.listdir(folder) if folder.is_dir() else []
    similar = difflib.get_close_matches(missing.name, names, n=1)
    return f"{hint}, which has '{printable(similar[0])}'" if similar else hint


def _nothing_matched(source: SourceConfig, where: str, endings: Counter[str]) -> DataError:
    paths = ", ".join(source.places)
    wanted = ", ".join(_Selection(source).patterns)
    there = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(5))
    found = f"the files there are: {there}" if there else "there is no file at all"
    return DataError(
        f"{where}.path: no file below {paths} matches {wanted}; {found}; "
        f"set {where}.include or another format"
    )
