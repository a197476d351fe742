"""Places as people name them (files, folders, globs, URLs, datasets), as sources of a corpus."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from mlmtune import hub
from mlmtune.config import FormatName, SourceConfig
from mlmtune.corpus import git, remote
from mlmtune.corpus.compression import uncompressed_name
from mlmtune.corpus.formats import check_available, format_of
from mlmtune.corpus.walking import Selection, Walk, ending_of
from mlmtune.errors import ConfigError, DataError, MlmtuneError
from mlmtune.locations import resolve
from mlmtune.printable import counted

PROSE: tuple[FormatName, ...] = (
    "markdown", "text", "rst", "html", "pdf", "docx", "pptx", "epub", "notebook",
)  # fmt: skip
"""The formats of documents, which are read wherever they are."""

TABLES: tuple[FormatName, ...] = ("json", "csv", "parquet")
"""The formats of records. Beside documents, they are usually settings and other data."""

NOT_TEXT = (".*", "node_modules", "site-packages", "__pycache__")
"""What a folder of somebody's work holds besides the work: hidden files, and installed packages."""

_FORGES = ("github.com", "gitlab.com", "codeberg.org", "bitbucket.org", "gitee.com")
"""Hosts whose URLs are those of repositories unless they name a file."""

_KEY = "PLACE"
"""Where walks and listings expect the key of a source, for errors."""

_PAGE_OF_FOLDER = re.compile(r"(?P<url>.+?)(?:/-)?/tree/(?P<revision>[^/]+)/?(?P<folder>.*)")
_SCP_LIKE = re.compile(r"(?P<login>[\w.-]+@[\w.-]+):(?!//)(?P<path>.+)")

_SAMPLE_BYTES = 1 << 16
_FEWEST_LINES, _LONG_LINE = 20, 150
"""A file of as many lines and more, without blank ones, has a document on each line if its lines
are usually longer than this: wrapped prose has shorter ones."""


@dataclass
class Found:
    """The files of one place.

    Attributes:
        source: The keys of a source that all of its formats share: where it is.
        folder: The folder of a repository that is meant; empty for all of it.
        formats: The number of files by format.
        others: The number of files by ending that belong to no format.
        has_hidden: Whether the place has files of `NOT_TEXT`, which are not counted.
    """

    source: dict[str, Any]
    folder: str = ""
    formats: Counter[FormatName] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    has_hidden: bool = False

    def add(self, below: str) -> FormatName | None:
        """Count a file by its path below the place; return its format if it is read."""
        if any(part.startswith(".") or part in NOT_TEXT for part in below.split("/")):
            self.has_hidden = True
            return None
        name = format_by_ending(below)
        if name is None:
            self.others[ending_of(below)] += 1
        else:
            self.formats[name] += 1
        return name


def sources_at(
    places: Sequence[str], git_cache: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the sources of a corpus, as a config has them.

    Each format of a folder is a source of its own. Tables are read from a folder only if it has no
    documents. Files that are named one by one are one source for each format.

    Args:
        places: Files, folders, globs, `package://` paths, URLs that fsspec opens, URLs of git
            repositories (also those of a forge's page of a folder), names of datasets on the hub.
        git_cache: The folder of fetched repositories.
        say: Is called with what is not read, and what takes time.

    Raises:
        DataError: A place does not exist, or has no file that is read.
        ConfigError: All of its files need an extra that is missing; or see `git.list_files`.
        HubError: A repository or a remote location cannot be reached.
    """
    with _without_key():
        return list(_sources(places, git_cache, say))


def _sources(
    places: Sequence[str], git_cache: Path, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Yield the sources of places one after the other, and then those of single files."""
    files: defaultdict[FormatName, list[str]] = defaultdict(list)
    for place in places:
        if place.strip() == "":
            raise DataError("the name of a place is empty; name a file or folder")
        if (dataset := _as_dataset(place)) is not None:
            if not resolve(place).exists():
                say(f"{place}: there is no such file or folder, so it is a dataset of the hub")
            yield dataset
        elif (repository := _as_repository(place)) is not None:
            _add_files_of(repository, git_cache, say)
            yield from _by_format(repository, place, say)
        elif remote.is_remote(place) and _is_file(place):
            files[format_by_ending(place) or "text"].append(place)
        elif remote.is_remote(place):
            found = Found({"path": place})
            for each in remote.list_remote(place, lambda _: True, _KEY):
                found.add(each.id)
            yield from _by_format(found, place, say)
        elif (path := _local(place)).is_file():
            files[_format_of_file(path)].append(place)
        elif path.is_dir():
            yield from _by_format(_in_folder(place), place, say)
        else:
            for name, paths in _matches(place, say).items():
                files[name] += paths
    for name, paths in files.items():
        check_available(name)
        yield {"format": name, "path": paths[0] if len(paths) == 1 else paths}


@contextmanager
def _without_key() -> Iterator[None]:
    """Raise errors without the key of a source: the user has named a place, and no source."""
    try:
        yield
    except MlmtuneError as error:
        where, key, what = str(error).partition(f"{_KEY}.path: ")
        if where or not key:
            raise
        raise type(error)(what) from error


def run_name(places: Sequence[str]) -> str:
    """Return what a run on these places is called: as the first of them."""
    first = re.split(r"[*?[]", places[0])[0] if not Path(places[0]).exists() else places[0]
    if first != places[0]:
        first = first.rpartition("/")[0]
    last = PurePosixPath(os.path.abspath(first) if "://" not in first else first.rstrip("/")).name
    stem = PurePosixPath(last)
    if uncompressed_name(last) != last.lower():
        stem = PurePosixPath(stem.stem)
    name = stem.stem if format_by_ending(last) or stem.suffix == ".git" else stem.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "text"


def format_by_ending(name: str) -> FormatName | None:
    """Return the format that files with this ending have; None if there is no such format."""
    endings = _endings()
    path = PurePosixPath(uncompressed_name(name.lower()))
    return endings.get(path.suffix)


@cache
def _endings() -> Mapping[str, FormatName]:
    return {ending: name for name in (*PROSE, *TABLES) for ending in format_of(name).endings}


def _is_file(url: str) -> bool:
    return format_by_ending(urlsplit(url).path) is not None


def _local(place: str) -> Path:
    """Return the path of a place on this machine; that of a glob is the glob.

    Raises:
        DataError: There is none.
    """
    try:
        Walk(place, Selection(_everything(place)), _KEY)
    except DataError as error:
        if not hub.is_name(place):
            raise
        hint = "a dataset of the hub is named OWNER/NAME, and a repository by its URL"
        raise DataError(f"{error}; {hint}") from error
    return resolve(place)


def _as_dataset(place: str) -> dict[str, Any] | None:
    """Return the source of a dataset: of the hub, or a folder that `save_to_disk` has written."""
    path = resolve(place) if not remote.is_remote(place) else None
    if path is not None and path.is_dir():
        is_saved = all((path / name).is_file() for name in ("state.json", "dataset_info.json"))
        is_saved |= (path / "dataset_dict.json").is_file()
        return {"format": "dataset", "dataset": place} if is_saved else None
    # A folder of that owner's name shows that a path was meant.
    if "/" not in place or not hub.is_name(place) or Path(place.partition("/")[0]).exists():
        return None
    return {"format": "dataset", "dataset": place}


def _as_repository(place: str) -> Found | None:
    """Return a git repository, whose files are not counted yet; None for another place."""
    if (scp := _SCP_LIKE.fullmatch(place)) is not None:
        return Found({"git": f"ssh://{scp['login']}/{scp['path']}"})
    scheme, _, rest = place.partition("://")
    if scheme == "ssh" or (scheme in ("https", "file") and rest.rstrip("/").endswith(".git")):
        return Found({"git": place.rstrip("/")})
    host = rest.partition("/")[0]
    if scheme != "https" or host.removeprefix("www.") not in _FORGES or _is_file(place):
        return None
    if (page := _PAGE_OF_FOLDER.fullmatch(place)) is None:
        return Found({"git": place.rstrip("/")})
    of_page = {"git": page["url"], "revision": page["revision"]}
    return Found(of_page, folder=page["folder"].strip("/"))


def _add_files_of(repository: Found, git_cache: Path, say: Callable[[str], None]) -> None:
    source, folder = repository.source, repository.folder
    for path in git.list_files(source["git"], source.get("revision"), git_cache, say):
        if not folder or path.startswith(f"{folder}/"):
            repository.add(path)


def _in_folder(place: str) -> Found:
    found = Found({"path": place})
    for below, _, _ in Walk(place, Selection(_everything(place)), _KEY).entries():
        found.add(below)
    return found


def _everything(place: str) -> SourceConfig:
    return SourceConfig(format="text", path=place, include=["*"])


def _matches(glob: str, say: Callable[[str], None]) -> dict[FormatName, list[str]]:
    """Return the files that a glob matches, by format; the glob itself if they are of one.

    Raises:
        DataError: Nothing matches, or no match is text.
    """
    found = Found({"path": glob})
    paths: defaultdict[FormatName, list[str]] = defaultdict(list)
    for below, path, _ in Walk(glob, Selection(_everything(glob)), _KEY).entries():
        if (name := found.add(below)) is not None:
            paths[name].append(path if os.path.isabs(glob) else os.path.relpath(path))
    if len(found.formats) == 1 and not found.others and not found.has_hidden:
        return {name: [glob] for name in paths}
    names = {source["format"] for source in _by_format(found, glob, say)}
    return {name: sorted(paths[name]) for name in paths if name in names}


def _by_format(found: Found, place: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Yield a source for each format of a place, and say which files are not read.

    Raises:
        DataError: No file is read.
        ConfigError: All files need an extra that is missing.
    """
    folder = found.folder
    names = [name for name in PROSE if found.formats[name]]
    tables = [name for name in TABLES if found.formats[name]]
    if not names:
        names, tables = tables, []
    if not names:
        seen = ", ".join(f"{count} of {ending}" for ending, count in found.others.most_common(5))
        raise DataError(
            f"{place}: no file of it is text that can be read; the files there are: "
            f"{seen or 'none'}; a file that is named itself is read as plain text"
        )
    for name in tables:
        number = counted(found.formats[name], "file")
        say(f"{place}: {number} of {name} beside documents are not read; name them to read them")
    lacking: list[ConfigError] = []
    for name in names:
        try:
            check_available(name)
        except ConfigError as error:
            lacking.append(error)
            say(f"{place}: {counted(found.formats[name], 'file')} not read: {error}")
            continue
        yield {
            "format": name,
            **found.source,
            # What a folder's endings do not select is selected by globs.
            **({"include": [f"{folder}/**/*{ending}" for ending in format_of(name).endings]}
               if folder else {}),
            **({"exclude": list(NOT_TEXT)} if found.has_hidden else {}),
            **({"name": f"{run_name([place])}, {name}"} if len(names) > 1 else {}),
        }  # fmt: skip
    if len(lacking) == len(names):
        raise lacking[0]


def _format_of_file(path: Path) -> FormatName:
    """Return the format of one file; of a text, `lines` if each line of it is a document."""
    name = format_by_ending(path.name) or "text"
    if name != "text" or uncompressed_name(path.name) != path.name:
        return name
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
    lines = sample.split(b"\n")[:-1]  # the last one may be cut
    has_documents = len(lines) >= _FEWEST_LINES and all(line.strip() for line in lines)
    return "lines" if has_documents and median(map(len, lines)) > _LONG_LINE else "text"
