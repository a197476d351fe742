"""Locations that fsspec opens (`s3://`, `gs://`, `https://`, ...): their files, listed and copied.

Errors never contain the query of a URL, because the query of a signed URL holds its signature.
"""

import errno
import importlib
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from mlmtune.corpus.records import FileLeftOut
from mlmtune.errors import ConfigError, DataError, HubError, MlmtuneError, named
from mlmtune.locations import FILE_SCHEME, PACKAGE_SCHEME
from mlmtune.redaction import is_url, public_location, remember_secrets
from mlmtune.shell import pip_install

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
"""How long a server may send nothing; the whole of a large file may take longer."""

_HTTP = ("http", "https")
_CACHES = re.compile(r"\A(?:(?:simplecache|filecache|blockcache)::)+")
"""Prefixes of fsspec that only cache what follows: `simplecache::https://...`."""

# Scheme -> the package of its plugin.
_PLUGINS = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp",
    "https": "aiohttp", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "oss": "ossfs",
    "sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "webdav": "webdav4",
}  # fmt: skip

# The keys under which plugins give the version of a file, the most reliable first.
_VERSION_KEYS = (
    "etag", "md5hash", "content-md5", "content_md5", "digest", "blob_id", "sha", "last-modified",
    "lastmodified", "last_modified", "updated", "mtime", "modified", "created",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a remote location.

    Attributes:
        id: The path below the folder that was listed, or the name of a single file.
        url: The URL, or the path of a file on this machine.
        size: The number of bytes; None if the server does not say.
        version: Changes with the content.
    """

    id: str
    url: str
    size: int | None
    version: str


def is_remote(location: str) -> bool:
    """Whether a location has a scheme, other than those of this machine's files."""
    return is_url(location) and not location.startswith((PACKAGE_SCHEME, FILE_SCHEME))


def list_remote(location: str, matches: Callable[[str], bool], where: str) -> list[RemoteFile]:
    """List the files of a location, sorted by id.

    Args:
        location: A file, a folder, or a glob; on a web server, a folder's name ends with `/` and
            its page links to the files.
        matches: Whether to list a file of a folder or a glob, by its path below the folder or below
            the part of the glob before its first wildcard. A single file is listed anyway.
        where: The key of the source in the config, for errors.

    Raises:
        ConfigError: The scheme is unknown, or its plugin is not installed.
        DataError: The location does not exist, or nothing matches the glob.
        HubError: It cannot be reached, or access is refused.
    """
    key, shown = f"{where}.path", public_location(location)
    # fsspec knows schemes in small letters only.
    scheme, separator, rest = location.partition("://")
    location = f"{scheme.lower()}{separator}{rest}"
    fixed, is_glob = _before_wildcards(location)
    try:
        fs, root = _filesystem(fixed, key)
        if is_glob:
            infos = _globbed(fs, location)
        else:
            info = fs.info(root)
            if not _is_folder(fixed, info):
                return [_listed(fs, info, _name(location), location)]
            infos = _below(fs, root)
        files = []
        for name, info in infos.items():
            below = name.removeprefix(root.rstrip("/")).lstrip("/")
            id_ = unquote(below) if _is_web(location) else below
            if matches(id_):
                files.append(_listed(fs, info, id_, f"{fixed.rstrip('/')}/{below}"))
    except MlmtuneError:
        raise
    except Exception as error:  # every plugin has errors of its own
        # From None, because a traceback would show the messages of plugins, which hold the query.
        if _is_missing(error, location):
            raise DataError(f"{key}: {shown} does not exist") from None
        raise HubError(f"{key}: {shown} cannot be read ({_reason(error)})") from None
    if is_glob and not infos:
        fault = f"nothing matches the glob {shown}"
        raise DataError(f"{key}: {fault}; correct it, or name the folder itself")
    return sorted(files, key=lambda file: file.id)


@contextmanager
def local_copy(url: str, folder: Path | None = None) -> Iterator[str]:
    """Copy a remote file to a local one with the same ending, which is deleted at the end.

    Args:
        url: The URL of a `RemoteFile`; a local path is not copied.
        folder: The folder of the copy; by default that of temporary files.

    Raises:
        FileLeftOut: It cannot be fetched.
        OSError: There is no room for it.
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
                detail = "existed when it was listed, and is gone"
                raise FileLeftOut("vanished", detail) from None
            raise FileLeftOut("unreachable", _reason(error), broken=True) from None
        yield path


def files_below(location: str) -> set[str]:
    """Return the paths of all files below a location, at any depth; none if it does not exist.

    Raises:
        ConfigError: The scheme is unknown, or its plugin is not installed.
        HubError: It cannot be reached, or access is refused.
    """
    with _answering(location) as (fs, root):
        try:
            names = _below(fs, root)
        except FileNotFoundError:
            return set()
        return {name.removeprefix(root.rstrip("/")).lstrip("/") for name in names}


def is_there(url: str) -> bool:
    """Whether a file exists.

    Raises:
        HubError: It cannot be reached, or access is refused.
    """
    with _answering(url) as (fs, path):
        return bool(fs.isfile(path))


def upload(file: Path, url: str) -> None:
    """Copy a file to a location, where it appears when all of it is there.

    Raises:
        HubError: It cannot be reached, or access is refused.
    """
    with _answering(url) as (fs, path):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if not _is_of_this_machine(fs):
            fs.put_file(str(file), path)
            return
        # Such a file would be there before it is whole.
        temporary = f"{path}.{secrets.token_hex(8)}"
        fs.put_file(str(file), temporary)
        fs.mv(temporary, path)


@contextmanager
def downloaded(url: str, folder: Path) -> Iterator[Path]:
    """Give a copy of a file in a folder, which is deleted after the block.

    Raises:
        HubError: It cannot be reached, or access is refused.
    """
    with tempfile.TemporaryDirectory(prefix="mlmtune-", dir=folder) as temporary:
        copy = Path(temporary, "copy")
        with _answering(url) as (fs, path):
            fs.get_file(path, str(copy))
        yield copy


def delete_remote(url: str) -> None:
    """Delete a file, if it exists.

    Raises:
        HubError: It cannot be reached, or access is refused.
    """
    with _answering(url) as (fs, path), suppress(FileNotFoundError):
        fs.rm_file(path)


@contextmanager
def _answering(url: str) -> Iterator[tuple[Any, str]]:
    """Give the file system of a URL, and the path there; its errors become one line.

    Raises:
        HubError: It cannot be reached, or access is refused.
    """
    key = "tokenization.parts"
    fs, path = _filesystem(url, key)
    fs.invalidate_cache()  # another machine may have written
    try:
        yield fs, path
    except Exception as error:  # every plugin has errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HubError(f"{key}: {public_location(url)} cannot be used ({_reason(error)})") from None


def _is_of_this_machine(fs: Any) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols


def _filesystem(location: str, key: str) -> tuple[Any, str]:
    import fsspec

    protocol = _protocol(location)
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ConfigError(
            f"{key}: {protocol}:// is not a kind of location that fsspec knows; "
            "it knows https, s3, gs, az, hf, sftp and others"
        ) from error
    except ImportError as error:
        fault = f"cannot be opened ({error})"
        if protocol in _PLUGINS:
            fault = f"needs a plugin that is not installed; {pip_install(_PLUGINS[protocol])}"
        raise ConfigError(f"{key}: {protocol}:// {fault}") from error
    # The user's own configuration of fsspec takes precedence.
    options = _options(protocol) | fsspec.config.conf.get(protocol, {})
    remember_secrets([location, options])
    is_cached = _CACHES.match(location) is not None
    fs, path = fsspec.url_to_fs(location, **({protocol: options} if is_cached else options))
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """Return timeouts that are shorter than the plugin's, and turn off decompression on the way."""
    if protocol in _HTTP:
        # By default it gives up on a file after five minutes, even while bytes arrive.
        timeout = importlib.import_module("aiohttp").ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
        )
        client = {"timeout": timeout, "trust_env": True, "auto_decompress": False}
        return {"client_kwargs": client, "headers": {"Accept-Encoding": "identity"}}
    if _PLUGINS.get(protocol) == "s3fs":
        bounds = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        return {"config_kwargs": bounds | {"retries": {"total_max_attempts": 2}}}
    return {}


def _protocol(location: str) -> str:
    return _CACHES.sub("", location).partition("://")[0].lower()


def _is_web(location: str) -> bool:
    return _protocol(location) in _HTTP


def _name(location: str) -> str:
    path = unquote(re.split(r"[?#]", location, maxsplit=1)[0]) if _is_web(location) else location
    return PurePosixPath(path).name


def _before_wildcards(location: str) -> tuple[str, bool]:
    """Return the folder above the first wildcard, and whether there is a wildcard."""
    # For web servers, `?` begins a query.
    wildcard = re.search(r"[*[]" if _is_web(location) else r"[*?[]", location)
    if wildcard is None:
        return location, False
    return location[: location.rindex("/", 0, wildcard.start()) + 1], True


def _is_folder(location: str, info: Mapping[str, Any]) -> bool:
    if _is_web(location):
        # Servers redirect the address of a folder to the one with a slash.
        return location.endswith("/") or str(info.get("url", "")).endswith("/")
    return bool(info["type"] == "directory")


def _globbed(fs: Any, location: str) -> dict[str, dict[str, Any]]:
    """Return the files that match a glob, and all files of the folders that do."""
    infos: dict[str, dict[str, Any]] = {}
    for name, info in fs.glob(location, detail=True).items():
        infos |= _below(fs, name) if info["type"] == "directory" else {name: info}
    return infos


def _below(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return the files of a folder, at any depth."""
    # A web server's page of a folder also has links that sort it, with a query.
    return {
        name: info
        for name, info in fs.find(folder, detail=True).items()
        if info["type"] == "file" and not (_is_web(name) and "?" in name)
    }


def _listed(fs: Any, info: Mapping[str, Any], id_: str, url: str) -> RemoteFile:
    if _protocol(url) in ("file", "local"):
        return RemoteFile(id_, str(info["name"]), info["size"], str(info["mtime"]))
    version = _version(info)
    if version is None:  # the page of a folder has only names
        info = fs.info(info["name"])
        version = _version(info) or str(fs.ukey(info["name"]))
    return RemoteFile(id_, url, info["size"], version)


def _version(info: Mapping[str, Any]) -> str | None:
    by_key = {key.lower(): value for key, value in info.items()}
    return next((str(by_key[key]) for key in _VERSION_KEYS if by_key.get(key)), None)


def _is_missing(error: Exception, location: str) -> bool:
    if not isinstance(error, FileNotFoundError):
        return False
    # The plugin for web servers raises it for every error, with the real one as its cause.
    cause = error.__cause__
    return cause is None or not _is_web(location) or getattr(cause, "status", 0) in (404, 410)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
        return "access is refused; give the credentials that its plugin looks for"
    return named(error)
