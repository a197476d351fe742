"""Walks over the paths of a source: the files that match its globs, and what is passed over."""

import difflib
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import xxhash

from mlmtune.config import SourceConfig
from mlmtune.corpus.compression import COMPRESSIONS
from mlmtune.corpus.formats import format_of
from mlmtune.corpus.listing import PassedOver
from mlmtune.errors import DataError
from mlmtune.locations import resolve
from mlmtune.printable import printable

_VERSION_CONTROL_FOLDERS = frozenset((".git", ".hg", ".svn"))

_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_GLOB_PARTS = re.compile(r"\*\*/|\*\*|\[(!?)(\]?[^]]*)\]|.", re.DOTALL)


class Selection:
    """The choice of files that a source makes, by their paths below its root.

    Attributes:
        patterns: The endings or globs that select files, for messages.
        name: Names the selection; equal selections have equal names.
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
        """Whether `exclude` names a file, or a folder and so everything in it."""
        return any(excludes(below) for excludes in self._exclude)


class Walk:
    """One path of a source: a file, a folder, or a glob.

    Attributes:
        root: The folder that ids are relative to, with links resolved.
        is_folder: Whether the path is a folder, whose files are selected by their endings.
        endings_passed: How many files of each ending did not match.
    """

    def __init__(self, location: str, selects: Selection, where: str) -> None:
        fixed, pattern = _split_glob(location)
        path = resolve(fixed)
        if not os.path.lexists(path):
            raise DataError(f"{where}.path: {fixed} does not exist{_nearest(path)}")
        self.endings_passed: Counter[str] = Counter()
        self._selects = selects
        # The folder may be a link; whether a file is one is examined later.
        self.root = os.path.realpath(path if path.is_dir() else path.parent)
        self._named_file = None if path.is_dir() else path.name
        self._glob = re.compile(_translate(pattern)) if pattern else None
        self._unmatched_glob = f"{where}.path: nothing matches the glob {location}"
        self.is_folder = self._named_file is None and not pattern
        self._max_depth = None if not pattern or "**" in pattern else pattern.count("/")

    def entries(self) -> Iterator[tuple[str, str, os.stat_result | PassedOver]]:
        """Yield (path below the root, real path, its status or why it is passed over) of matches.

        Raises:
            DataError: The path is a glob that no file and no folder matches.
        """
        if self._named_file is not None:
            # The user named this file, so that a link may lead anywhere.
            real = os.path.realpath(os.path.join(self.root, self._named_file))
            yield self._named_file, real, _status(real, real)
            return
        # A stack instead of recursion, because folders may be nested more deeply than calls. Beside
        # each folder is whether the source names it or a folder above it.
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
                        self.endings_passed[ending_of(name)] += 1
                    continue
                if (outcome := self._entry(entry)) is not None:
                    yield name, *outcome
        if not anything_fits:
            raise DataError(f"{self._unmatched_glob}; correct it, or name the folder itself")

    def _entry(self, entry: os.DirEntry[str]) -> tuple[str, os.stat_result | PassedOver] | None:
        """Return the real path and the status of a match that is not a folder."""
        if not entry.is_symlink():
            return entry.path, _status(entry.path, entry.path)
        real = os.path.realpath(entry.path)
        if not Path(real).is_relative_to(self.root):
            detail = f"a link to {real}, outside of {self.root}"
            return entry.path, PassedOver(entry.path, "link_outside", detail)
        if os.path.isdir(real):
            return None  # is walked at its real path
        return real, _status(real, entry.path)


def ending_of(name: str) -> str:
    """Return a file's ending in lower case, with that of its compression, or `none`."""
    path = PurePosixPath(name.lower())
    is_compressed = path.suffix in COMPRESSIONS
    ending = PurePosixPath(path.stem).suffix * is_compressed + path.suffix
    return printable(ending) or "none"


def _split_glob(location: str) -> tuple[str, str]:
    """Return the part before the first wildcard, and the pattern after it, which may be empty."""
    wildcard = re.compile(r"[*?[]")
    if not wildcard.search(location) or os.path.lexists(os.path.expanduser(location)):
        return location, ""
    parts = location.split("/")
    first = next(i for i, part in enumerate(parts) if wildcard.search(part))
    fixed = "/".join(parts[:first]) or ("/" if location.startswith("/") else ".")
    return fixed, "/".join(parts[first:])


def _matcher(glob: str) -> Callable[[str], bool]:
    """Return a function that says whether a path, or a folder that it is in, matches a glob.

    As in .gitignore, a glob without `/` matches names at any depth, and a glob with `/` matches
    paths from the top; `**` matches any number of folders.
    """
    glob = glob.removeprefix("./")
    anywhere = "(?:.*/)?" if "/" not in glob.rstrip("/") else ""
    expression = re.compile(f"{anywhere}{_translate(glob.strip('/'))}(?:/.*)?")
    return lambda below: expression.fullmatch(below) is not None


def _translate(glob: str) -> str:
    """Return the regular expression of a glob, whose `*` and `?` match no `/`."""

    def translated(part: re.Match[str]) -> str:
        if part[2] is None:
            return _WILDCARDS.get(part[0], re.escape(part[0]))
        characters = re.sub(r"[][\\^]", r"\\\g<0>", part[2])
        expression = f"[{'^' if part[1] else ''}{characters}]"
        try:
            re.compile(expression)
        except re.error:  # brackets around nothing, or around a range backwards
            return re.escape(part[0])
        return expression

    return _GLOB_PARTS.sub(translated, glob)


def _status(path: str, shown: str) -> os.stat_result | PassedOver:
    """Return the status of a regular file, or why it is passed over."""
    try:
        status = os.lstat(path)
    except OSError as error:
        return PassedOver(shown, "link_broken", error.strerror or str(error))
    if stat.S_ISLNK(status.st_mode):
        return PassedOver(shown, "link_broken", "a link to itself")
    if not stat.S_ISREG(status.st_mode):
        return PassedOver(shown, "not_a_file", "a pipe, socket or device")
    return status


def _nearest(path: Path) -> str:
    """Return a hint: the nearest folder that exists, and a similar name in it."""
    missing = path.absolute()
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    folder = missing.parent
    hint = f"; the nearest that exists is {folder}"
    names = os.listdir(folder) if folder.is_dir() else []
    similar = difflib.get_close_matches(missing.name, names, n=1)
    return f"{hint}, which has '{printable(similar[0])}'" if similar else hint
