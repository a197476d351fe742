"""Whether files still hold what was written into them, by hashes that are kept with them.

JSON files carry a hash of their own content. Small files are hashed whenever they are read. Large
ones are hashed once after each start of the machine: a note in the cache says which files were
verified, with their sizes, times and inodes, so that a file that was touched is hashed again.
"""

import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import xxhash

from mlmtune.errors import DataError
from mlmtune.files import write_bytes

_BLOCK_BYTES = 1 << 20
_DIGEST = "digest"
_SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again without another time."""


class Damaged(DataError):
    """A file is not what was written. All that is verified can be made anew.

    Args:
        path: the file.
        fault: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, path: Path, fault: str, remedy: str) -> None:
        super().__init__(path, fault, remedy)  # so that it can be sent between processes
        self.path = path
        self.what = f"{path}: {fault}"
        self._remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self._remedy}"


def digest(content: bytes | memoryview) -> str:
    """The hash of some bytes."""
    return xxhash.xxh3_128_hexdigest(content)


def file_digest(path: Path) -> str:
    """The hash of a file's bytes. They are read, not mapped: a disk's fault is an OSError then."""
    state = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            state.update(block[:num_bytes])
    return state.hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """An object as JSON that says by a hash whether it is still the same."""
    return json.dumps({_DIGEST: _digest_of_json(content), **content}, indent=1).encode()


def unsealed(text: bytes) -> dict[str, Any]:
    """The object that `sealed` wrote.

    Raises:
        ValueError: it is no longer the same.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop(_DIGEST, None) != _digest_of_json(content):
        raise ValueError("the content does not match its hash")
    return content


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


class VerifiedFiles:
    """Which files of a folder were verified since this machine was started.

    Args:
        notes: the folder of the cache where that is written down; None to verify every time.
        directory: the folder.
        digests: the files, with their hashes.
    """

    def __init__(self, notes: Path | None, directory: Path, digests: Mapping[Path, str]) -> None:
        name = digest(f"{platform.node()}\0{directory.absolute()}".encode())
        self._path = None if notes is None else notes / f"{name}.json"
        states = {path: path.stat() for path in digests}
        self._wanted = {
            "directory": str(directory),
            "boot": int(psutil.boot_time()),
            "files": {
                str(path.relative_to(directory)): [
                    digests[path], state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
                ]
                for path, state in states.items()
            },
        }  # fmt: skip
        last_change = max((state.st_ctime for state in states.values()), default=0.0)
        self._may_note = time.time() - last_change > _SETTLED_SECONDS

    def are_noted(self) -> bool:
        """Whether the files were verified, and not touched since."""
        if self._path is None:
            return False
        try:
            return bool(json.loads(self._path.read_bytes()) == self._wanted)
        except (OSError, ValueError):
            return False

    def note(self) -> None:
        """Write down that they were verified; where that is impossible, they will be again."""
        if self._path is not None and self._may_note:
            with suppress(OSError):
                write_bytes(self._path, json.dumps(self._wanted).encode(), shared=True)
