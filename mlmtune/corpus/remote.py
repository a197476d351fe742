"""Locations that fsspec opens (`s3://`, `gs://`, `https://`, ...): listing them, fetching a file.

What an error says of a URL never holds its query: that is where signatures of signed URLs stand.
"""

import errno
import importlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from mlmtune.corpus.records import FileLeftOut
from mlmtune.errors import ConfigError, DataError, HubError, MlmtuneError
from mlmtune.locations import FILE_SCHEME, PACKAGE_SCHEME
from mlmtune.redaction import is_url, public_location, remember_secrets, without_queries
from mlmtune.shell import pip_install

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
"""How long a server may be silent. Not how long a file may take, which may be large."""

_HTTP = ("http", "https")
_CACHES = re.compile(r"(?:(?:simplecache|filecache|blockcache)::)*")
"""Links of fsspec's chains, in which what follows stays what it is: `simplecache::https://...`."""

# A `?` is a wildcard but for web servers, where a query begins with it.
_WILDCARDS = re.compile(r"[*?[]")
_HTTP_WILDCARDS = re.compile(r"[*[]")

# Scheme -> what installs its plugin.
_PLUGINS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp",
    "https": "aiohttp", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "oss": "ossfs",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "webdav": "webdav4",
}  # fmt: skip

# Where the plugins say which state of a file they speak of, the surest first.
_VERSION_KEYS = (
    "etag", "md5hash", "content-md5", "content_md5", "digest", "blob_id", "sha", "last-modified",
    "lastmodified", "last_modified", "updated", "mtime", "modified", "created",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that was found.

    Attributes:
        id: path below the folder that was listed, with `/`; the name of a file named outright.
        url: what `local_copy` takes.
        size: bytes; None where the server does not tell.
        version: changes with the content.
    """

    id: str
    url: str
    size: int | None
    version: str


def is_remote(location: str) -> bool:
    """Whether a location has a scheme, other than those of places on this machine."""
    return is_url(location) and not location.startswith((PACKAGE_SCHEME, FILE_SCHEME))


def list_remote(location: str, matches: Callable[[str], bool], where: str) -> list[RemoteFile]:
    """The files that a location names, by id.

    Args:
        location: a file, a folder, or a glob; on a web server, a folder's name ends with `/` and
            its page links to the files.
        matches: whether to take a file of a folder or a glob, by its path below the folder or below
            the part of the glob before its first wildcard. A file named outright is taken anyway.
        where: the source's place in the config, for errors.

    Raises:
        ConfigError: the scheme is unknown, or its plugin is not installed.
        DataError: there is no such place, or nothing matches the glob.
        HubError: it cannot be reached, or access is refused.
    """
    place = f"{where}.path"
    location = _with_small_scheme(location)
    fixed, is_glob = _before_wildcards(location)
    with _errors_named(location, place):
        fs, root = _filesystem(fixed, place)
        if is_glob:
            found = _globbed(fs, location)
        else:
            info = fs.info(root)
            if not _is_folder(fixed, info):
                return [_listed(fs, info, _name(location), location)]
            found = _below(fs, root)
        files = []
        for name, info in found.items():
            below = name.removeprefix(root.rstrip("/")).lstrip("/")
            id_ = unquote(below) if _is_web(location) else below
            if matches(id_):
                files.append(_listed(fs, info, id_, f"{fixed.rstrip('/')}/{below}"))
    if is_glob and not found:
        raise DataError(
            f"{place}: nothing matches the glob {public_location(location)}; correct it, or name "
            "the folder itself"
        )
    return sorted(files, key=lambda file: file.id)


@contextmanager
def local_copy(url: str, folder: Path | None = None) -> Iterator[str]:
    """A file's content as a local file with the same ending, which is deleted at the end.

    Args:
        url: a `RemoteFile`'s; a local path is given back as it is.
        folder: where the copy is kept meanwhile; by default with other temporary files.

    Raises:
        FileLeftOut: it cannot be fetched.
        OSError: there is no room for it.
    """
    if not is_remote(url):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="mlmtune-", dir=folder) as temporary:
        path = str(Path(temporary, "copy" + "".join(PurePosixPath(_name(url)).suffixes[-2:])))
        try:
            fs, remote_path = _filesystem(url, public_location(url))
            fs.get_file(remote_path, path)
        except MlmtuneError:
            raise
        except Exception as error:  # every plugin has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if _is_missing(error, url):
                detail = "was there when it was listed, and is gone"
                raise FileLeftOut("vanished", detail) from None
            raise FileLeftOut("unreachable", _reason(error), broken=True) from None
        yield path


def _filesystem(location: str, place: str) -> tuple[Any, str]:
    """What opens a location, and the path it has there."""
    import fsspec

    protocol = _protocol(location)
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ConfigError(
            f"{place}: {protocol}:// is no kind of location that fsspec knows; "
            "it knows https, s3, gs, az, hf, sftp and others"
        ) from error
    except ImportError as error:
        if protocol not in _PLUGINS:
            raise ConfigError(f"{place}: {protocol}:// cannot be opened ({error})") from error
        raise ConfigError(
            f"{place}: {protocol}:// needs a plugin that is not installed; "
            f"{pip_install(_PLUGINS[protocol])}"
        ) from error
    # What the user wrote into fsspec's own configuration counts more.
    options = _options(protocol) | fsspec.config.conf.get(protocol, {})
    remember_secrets([location, options])
    is_cached = location != _uncached(location)
    fs, path = fsspec.url_to_fs(location, **({protocol: options} if is_cached else options))
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """Bounds on silence where the plugin's are minutes, and files just as the server keeps them."""
    if protocol in _HTTP:
        # By default it gives up on a file after five minutes, though bytes still come.
        timeout = importlib.import_module("aiohttp").ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
        )
        client = {"timeout": timeout, "trust_env": True, "auto_decompress": False}
        return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
    if _PLUGINS.get(protocol) == "s3fs":
        bounds = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        return {"config_kwargs": bounds | {"retries": {"total_max_attempts": 2}}}
    return {}


def _uncached(location: str) -> str:
    return _CACHES.sub("", location, count=1)


def _protocol(location: str) -> str:
    return _uncached(location).partition("://")[0].lower()


def _with_small_scheme(location: str) -> str:
    """`HTTPS://host/A` as `https://host/A`: fsspec knows schemes in small letters alone."""
    scheme, separator, rest = location.partition("://")
    return f"{scheme.lower()}{separator}{rest}"


def _is_web(location: str) -> bool:
    return _protocol(location) in _HTTP


def _name(location: str) -> str:
    """The name of the file that a location leads to."""
    path = unquote(re.split(r"[?#]", location, maxsplit=1)[0]) if _is_web(location) else location
    return PurePosixPath(path).name


def _before_wildcards(location: str) -> tuple[str, bool]:
    """The folder above the first wildcard, and whether there is one."""
    wildcard = (_HTTP_WILDCARDS if _is_web(location) else _WILDCARDS).search(location)
    if wildcard is None:
        return location, False
    return location[: location.rindex("/", 0, wildcard.start()) + 1], True


def _is_folder(location: str, info: Mapping[str, Any]) -> bool:
    if _is_web(location):
        # Of a folder, servers send one on to the address with the slash.
        return location.endswith("/") or str(info.get("url", "")).endswith("/")
    return bool(info["type"] == "directory")


def _globbed(fs: Any, location: str) -> dict[str, dict[str, Any]]:
    """Files that match a glob, and all files of the folders that do."""
    found = {}
    for name, info in fs.glob(location, detail=True).items():
        if info["type"] == "directory":
            found.update(_below(fs, name))
        else:
            found[name] = info
    return found


def _below(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    """The files of a folder to its depths."""
    found = fs.find(folder, detail=True).items()
    # A web server's page of a folder also has links that sort it.
    return {
        name: info
        for name, info in found
        if info["type"] == "file" and not (_is_web(name) and "?" in name)
    }


def _listed(fs: Any, info: Mapping[str, Any], id_: str, url: str) -> RemoteFile:
    if _protocol(url) in ("file", "local"):
        return RemoteFile(id_, str(info["name"]), info["size"], str(info["mtime"]))
    version = _version(info)
    if version is None:  # pages of folders tell names alone
        info = fs.info(info["name"])
        version = _version(info) or str(fs.ukey(info["name"]))
    return RemoteFile(id_, url, info["size"], version)


def _version(info: Mapping[str, Any]) -> str | None:
    by_key = {key.lower(): value for key, value in info.items()}
    return next((str(by_key[key]) for key in _VERSION_KEYS if by_key.get(key)), None)


@contextmanager
def _errors_named(location: str, place: str) -> Iterator[None]:
    """What goes wrong with a location, in one line without secrets."""
    shown = public_location(location)
    try:
        yield
    except MlmtuneError:
        raise
    except Exception as error:  # every plugin has errors of its own
        # From None: the messages of the others hold the query, and a traceback shows them.
        if _is_missing(error, location):
            raise DataError(f"{place}: {shown} does not exist") from None
        raise HubError(f"{place}: {shown} cannot be read ({_reason(error)})") from None


def _is_missing(error: Exception, location: str) -> bool:
    if not isinstance(error, FileNotFoundError):
        return False
    # The plugin for web servers says so whatever went wrong, and keeps that as the cause.
    cause = error.__cause__
    return cause is None or not _is_web(location) or getattr(cause, "status", 0) in (404, 410)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
        return "access is refused; give the credentials that its plugin looks for"
    said = without_queries(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
