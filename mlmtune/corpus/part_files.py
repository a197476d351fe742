"""Where parts are kept: in a folder, or at a location that fsspec opens.

A file appears there only when it is whole: by a rename in a folder, and elsewhere when its upload
ends.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlmtune.corpus.remote import delete_remote, downloaded, files_below, is_there, upload
from mlmtune.files import whole_file
from mlmtune.redaction import public_location

_PARQUET_MARK = b"PAR1"


@dataclass(frozen=True)
class PartFiles:
    """The files of parts, by their names.

    Attributes:
        folder: The folder of the files; with a location, of temporary copies.
        location: The location, such as `s3://bucket/parts`; None for the folder.
    """

    folder: Path
    location: str | None = None

    def finished(self, names: Sequence[str]) -> set[str]:
        """Return the names of the files that are there.

        Raises:
            HubError: The location does not answer.
            ConfigError: Its scheme is not known, or a plugin is missing.
        """
        if self.location is not None:
            return set(names) & files_below(self.location)
        return {name for name in names if self.is_finished(name)}

    def is_finished(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            HubError: The location does not answer.
        """
        if self.location is not None:
            return is_there(self._url(name))
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(-len(_PARQUET_MARK), os.SEEK_END)
                return file.read() == _PARQUET_MARK
        except OSError:
            return False

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give the path to write a file to, which is there after the block.

        Raises:
            HubError: It cannot be uploaded.
            OSError: It cannot be written.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.location is None:
            with whole_file(path, shared=True) as temporary:
                yield temporary
            return
        with whole_file(path, shared=True) as temporary:
            yield temporary
            upload(temporary, self._url(name))
        path.unlink()

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Give the path of a file that is there, or of a copy that is deleted after the block.

        Raises:
            HubError: It cannot be downloaded.
        """
        if self.location is None:
            yield self.folder / name
            return
        with downloaded(self._url(name), self.folder) as copy:
            yield copy

    def delete(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises:
            HubError: The location does not answer.
        """
        if self.location is None:
            (self.folder / name).unlink(missing_ok=True)
        else:
            delete_remote(self._url(name))

    def shown(self, name: str) -> str:
        """Return what messages call a file."""
        if self.location is None:
            return str(self.folder / name)
        return public_location(self._url(name))

    def _url(self, name: str) -> str:
        assert self.location is not None
        return f"{self.location.rstrip('/')}/{name}"
