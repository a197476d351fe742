"""Which files make up the corpus: found once, in a fixed order, before anything is read."""

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from mlmtune.config import CorpusConfig, SourceConfig
from mlmtune.corpus.readers import ENDINGS
from mlmtune.errors import DataError
from mlmtune.locations import resolve

_VERSION_CONTROL_FOLDERS = frozenset((".git", ".hg", ".svn"))
_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that is to be read.

    Attributes:
        id: path below the source's root, with `/`; names the file within its source.
        path: where it is.
        size: bytes.
        mtime_ns: time of its last change, nanoseconds.
    """

    id: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A place that was found and will not be read: a pipe, a link that leads out, ..."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ListedSource:
    """The files of one source.

    Attributes:
        config: the source in the config.
        name: its name in reports; no other source has it.
        validation: it is one of `validation_sources`.
        files: sorted by id.
        passed_over: what matched but cannot be read.
    """

    config: SourceConfig
    name: str
    validation: bool
    files: tuple[ListedFile, ...]
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of the corpus; those of `validation_sources` first."""

    sources: tuple[ListedSource, ...]

    def signature(self) -> str:
        """A digest of every file's source, id, size, time of change, and whether it may be read."""
        state = xxhash.xxh3_128()
        for source in self.sources:
            state.update(f"{source.name}\0{source.validation}\0{len(source.files)}\0".encode())
            for file in source.files:
                # A file whose permission is mended keeps its size and time.
                is_readable = os.access(file.path, os.R_OK)
                line = f"{file.id}\0{file.size}\0{file.mtime_ns}\0{is_readable}\0"
                state.update(line.encode("utf-8", "surrogateescape"))
        return state.hexdigest()


def scan(config: CorpusConfig) -> Listing:
    """List the files of every source, in an order that is the same on every machine.

    Folders are walked to their depths, but for links out of them and version control's own folders.

    Raises:
        DataError: a path does not exist, or no file of a source matches.
        ConfigError: a `package://` path cannot be resolved.
    """
    named: Counter[str] = Counter()
    sources = []
    sections = (("validation_sources", config.validation_sources), ("sources", config.sources))
    for section, source_configs in sections:
        for index, source_config in enumerate(source_configs):
            paths = _paths(source_config)
            name = source_config.name or ", ".join(paths)
            named[name] += 1
            if named[name] > 1:
                name = f"{name} ({named[name]})"
            files, passed_over = _scan_source(source_config, f"corpus.{section}[{index}]")
            is_validation = section == "validation_sources"
            sources.append(ListedSource(source_config, name, is_validation, files, passed_over))
    return Listing(tuple(sources))


def _paths(source: SourceConfig) -> list[str]:
    return [source.path] if isinstance(source.path, str) else source.path


def _scan_source(
    source: SourceConfig, where: str
) -> tuple[tuple[ListedFile, ...], tuple[PassedOver, ...]]:
    """The files of one source, by id; `where` is its place in the config."""
    walks = [_Walk(location, source, where) for location in _paths(source)]
    # Ids of several paths are told apart by the folders that their roots do not share.
    common = os.path.commonpath([walk.root for walk in walks]) if walks else ""
    files: dict[str, ListedFile] = {}
    passed_over: dict[str, PassedOver] = {}
    endings_seen: Counter[str] = Counter()
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
                files[path] = ListedFile(file_id, path, outcome.st_size, outcome.st_mtime_ns)
        endings_seen += walk.endings_passed
    if not files and not passed_over:
        raise _nothing_matched(source, where, endings_seen)
    return (
        tuple(sorted(files.values(), key=lambda file: file.id)),
        tuple(sorted(passed_over.values(), key=lambda entry: entry.path)),
    )


class _Walk:
    """One path of a source: a file, a folder, or a glob.

    Attributes:
        root: the folder that ids start from, with links resolved.
        endings_passed: how many files of each ending did not match.
    """

    def __init__(self, location: str, source: SourceConfig, where: str) -> None:
        fixed, pattern = _split_glob(location)
        path = resolve(fixed)
        if not os.path.lexists(path):
            raise DataError(f"{where}.path: {fixed} does not exist{_nearest(path)}")
        self.endings_passed: Counter[str] = Counter()
        self._exclude = [_matcher(glob) for glob in source.exclude]
        self._named_file: str | None = None
        if os.path.isdir(path):
            self.root = os.path.realpath(path)
        else:
            # The folder may be a link, the file itself is looked at as it is.
            self.root = os.path.realpath(path.parent)
            self._named_file = path.name

        if source.include is None:
            endings = tuple(e + gz for e in ENDINGS[source.format] for gz in ("", ".gz"))
            self._include: Callable[[str], bool] = lambda below: below.lower().endswith(endings)
        else:
            includes = [_matcher(glob) for glob in source.include]
            self._include = lambda below: any(matches(below) for matches in includes)
        self._glob = re.compile(_translate(pattern)) if pattern else None
        self._max_depth = None if not pattern or "**" in pattern else pattern.count("/")

    def entries(self) -> Iterator[tuple[str, str, os.stat_result | PassedOver]]:
        """(path below the root, real path, status or why it is passed over) of what matches."""
        if self._named_file is not None:
            path = os.path.join(self.root, self._named_file)
            # Named by the user: a link may lead where it will.
            real = os.path.realpath(path)
            yield self._named_file, real, _status(real, real)
            return
        # A stack in place of recursion: folders may be nested more deeply than calls. With each
        # folder goes whether the source names it, or one above it.
        stack = [("", self._glob is None)]
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
                if any(excludes(name) for excludes in self._exclude):
                    continue
                fits = self._glob is not None and self._glob.fullmatch(name) is not None
                if entry.is_dir(follow_symlinks=False):
                    deeper = self._max_depth is None or name.count("/") < self._max_depth
                    if entry.name not in _VERSION_CONTROL_FOLDERS and (matched or fits or deeper):
                        stack.append((name, matched or fits))
                    continue
                if not (fits or (matched and self._include(name))):
                    if not entry.is_symlink():
                        self.endings_passed[PurePosixPath(name).suffix or "none"] += 1
                    continue
                outcome = self._entry(entry)
                if outcome is not None:
                    yield name, *outcome

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
    return f"{hint}, which has '{similar[0]}'" if similar else hint


def _nothing_matched(source: SourceConfig, where: str, endings: Counter[str]) -> DataError:
    paths = ", ".join(_paths(source))
    wanted = ", ".join(source.include or ENDINGS[source.format])
    there = ", ".join(f"{count} of {ending}" for ending, count in endings.most_common(5))
    found = f"the files there are: {there}" if there else "there is no file at all"
    return DataError(
        f"{where}.path: no file below {paths} matches {wanted}; {found}; "
        f"set {where}.include or another format"
    )
