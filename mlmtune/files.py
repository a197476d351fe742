"""Files and folders that are written whole or not at all, and locks between processes.

What has its own name is whole. New content is written beside it under a temporary name,
`.writing-NAME`, and gets the name when it is complete, by a rename, which a file system does at
once. So whenever a process is killed, the name leads to the old content or to the new content,
never to a mixture or a half. A folder cannot take the place of another at once: the old one is
first renamed to `.deleting-NAME`, so for a moment nothing has the name.

That holds when a process dies. What is written with `durable` is also on the disk when the call
returns, and outlasts a loss of power. Anything else may be damaged by one, which the hashes that
are kept with it reveal (see `integrity`).

A killed process leaves temporary names behind. They are deleted when the same name is written
again, and by `sweep`.
"""

import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from mlmtune.redaction import without_secrets

MADE_OF = "made_of.json"
"""The file in an unfinished folder that says what its content depends on."""

_WRITING = ".writing-"
_DELETING = ".deleting-"
_STALE_SECONDS = 3600
"""The age at which a temporary file that nobody writes to any more counts as left behind."""


def temporary_name(path: Path) -> Path:
    """Return the name under which a file or folder is written until it is complete."""
    return path.with_name(f"{_WRITING}{path.name}")


@contextmanager
def whole_file(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """Give the temporary name to write a file under; the file gets its own name at the end.

    If the writing fails, the temporary file is deleted, and the old file stays as it was.

    Args:
        path: The final name of the file. Its folder must exist.
        durable: Whether the file must be on the disk at the end.
        shared: Whether several processes may write this file at once; each then uses a temporary
            name of its own.
    """
    temporary = temporary_name(path)
    if shared:
        for left in path.parent.glob(f"{glob.escape(temporary.name)}.*"):
            with suppress(FileNotFoundError):  # another process deleted it
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    left.unlink()
        temporary = _own_name(temporary)
    try:
        yield temporary
        if durable:
            _make_durable(temporary)
        temporary.replace(path)
        if durable:
            _make_durable(path.parent)
    except BaseException:
        _delete(temporary)
        raise


def file_of_user(path: Path) -> AbstractContextManager[Path]:
    """Give the path at which to write a file that the user names on the command line.

    The file is written whole, and a link to it stays a link. A device, a pipe, or the open file
    that /dev/stdout leads to is written itself, because a new file would replace it.
    """
    is_open = path.is_symlink() and str(path.absolute()).startswith(("/dev/", "/proc/"))
    if is_open or (path.exists() and not (path.is_file() or path.is_dir())):
        return nullcontext(path)
    return whole_file(path.resolve())


@contextmanager
def whole_folder(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """Give an empty temporary folder to write into; it gets its own name at the end.

    If the writing fails, the temporary folder is deleted, and the old folder stays as it was.

    Args:
        path: The final name of the folder. A folder of that name is replaced.
        durable: Whether the folder and all its files must be on the disk at the end.
        shared: Whether several processes may write this folder at once; see `whole_file`.
    """
    temporary = temporary_name(path)
    if shared:
        temporary = _own_name(temporary)
    _delete(temporary)
    temporary.mkdir()  # not its parents: a directory that the user deleted must not come back
    try:
        yield temporary
        _put_in_place(temporary, path, durable=durable)
    except BaseException:
        _delete(temporary)
        raise


def put_in_place(path: Path, *, durable: bool = False) -> None:
    """Rename the complete folder at `temporary_name(path)`, and delete the old folder at `path`."""
    _put_in_place(temporary_name(path), path, durable=durable)


def _put_in_place(temporary: Path, path: Path, *, durable: bool) -> None:
    old = path.with_name(f"{_DELETING}{path.name}")
    if durable:
        for inside in (*temporary.rglob("*"), temporary):
            _make_durable(inside)
    _delete(old)
    with suppress(FileNotFoundError):
        path.rename(old)
    temporary.rename(path)
    if durable:
        _make_durable(path.parent)
    _delete(old)


def _own_name(temporary: Path) -> Path:
    # Random, because machines and containers that share the folder number processes alike.
    return temporary.with_name(f"{temporary.name}.{secrets.token_hex(8)}")


def write_bytes(
    path: Path, content: bytes | memoryview, *, durable: bool = False, shared: bool = False
) -> None:
    """Write a file whole; see `whole_file`."""
    with whole_file(path, durable=durable, shared=shared) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, without secrets."""
    write_bytes(path, without_secrets(text).encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole, without secrets.

    Raises:
        ValueError: A number is not finite; the caller must decide what to write instead.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def begin_folder(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Create a folder that is filled file by file, in any order.

    What an interrupted writer finished stays if it was made of the same; see `MADE_OF`.

    Args:
        folder: The temporary name of the folder.
        made_of: What the content of the folder depends on.
    """
    record, expected = folder / MADE_OF, json.dumps(made_of)
    if not (record.exists() and record.read_text(encoding="utf-8") == expected):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_bytes(record, expected.encode())
    sweep(folder)


def sweep(folder: Path) -> None:
    """Delete what killed processes left in a folder that no other process writes to."""
    for prefix in (_WRITING, _DELETING):
        for left in folder.glob(f"{prefix}*"):
            _delete(left)


def _delete(path: Path) -> None:
    """Delete a file or folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
