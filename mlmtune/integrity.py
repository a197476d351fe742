"""Hashes that are kept with files, and that show whether the files are still what was written.

JSON files carry a hash of their own content. Small files are hashed whenever they are read. Large
files are hashed once after each start of the machine: a note in the cache lists the files that were
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
SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again within the resolution of its time stamp."""


class Damaged(DataError):
    """A file is not what was written. Every file that is verified can be made again."""

    def __init__(self, place: Path | str, fault: str, remedy: str) -> None:
        super().__init__(place, fault, remedy)  # what pickle restores it from in another process
        self.what = f"{place}: {fault}"
        self._remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}; {self._remedy}"


def digest(content: bytes | memoryview) -> str:
    """Return the hash of some bytes."""
    return xxhash.xxh3_128_hexdigest(content)


def file_digest(path: Path) -> str:
    """Return the hash of a file's bytes."""
    state = xxhash.xxh3_128()
    # Read, not mapped: a fault of the disk is an OSError here and a fatal signal in mapped memory.
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(block):
            state.update(block[:num_bytes])
    return state.hexdigest()


class GrowingFile:
    """A new file that is written piece by piece, and hashed meanwhile.

    Args:
        path: The file. Whoever writes it gives it, or its folder, its own name at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = xxhash.xxh3_128()

    def append(self, content: bytes | memoryview) -> None:
        with self._path.open("ab") as file:
            file.write(content)
        self._state.update(content)

    def digest(self) -> str:
        """Return the hash of all that was written."""
        return self._state.hexdigest()


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return an object as JSON with a hash of its content, which `unsealed` verifies."""
    return json.dumps({_DIGEST: _digest_of_json(content), **content}, indent=1).encode()


def unsealed(text: bytes) -> dict[str, Any]:
    """Read the object that `sealed` wrote.

    Raises:
        ValueError: The object is no longer what was written.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop(_DIGEST, None) != _digest_of_json(content):
        raise ValueError("the content does not match its hash")
    return content


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


class VerifiedFiles:
    """A note that some files of a folder were verified since this machine started.

    Args:
        notes: The folder of the cache that holds such notes; None to verify every time.
        directory: The folder of the files.
        digests: The hash of each file.
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
        self._may_note = time.time() - last_change > SETTLED_SECONDS

    def are_noted(self) -> bool:
        """Whether the files were verified, and were not touched since then."""
        if self._path is None:
            return False
        try:
            return bool(json.loads(self._path.read_bytes()) == self._wanted)
        except (OSError, ValueError):
            return False

    def note(self) -> None:
        """Write down that the files were verified; if that fails, they are verified again later."""
        if self._path is not None and self._may_note:
            with suppress(OSError):
                write_bytes(self._path, json.dumps(self._wanted).encode(), shared=True)
