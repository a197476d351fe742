"""What is wrong with a file, or with one record of it."""

from dataclasses import dataclass


class FileLeftOut(Exception):
    """A file cannot be read as text.

    Args:
        reason: the word it is counted under (`binary`, `vanished`, ...).
        detail: what is wrong, for people.
        broken: the file is damaged, so that `corpus.on_error` decides whether to go on.
        is_misread: no record of the file can be read in this way, whatever `corpus.on_error` says:
            it is the config that has to change.
    """

    def __init__(
        self, reason: str, detail: str, *, broken: bool = False, is_misread: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.broken = broken
        self.is_misread = is_misread


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A record that cannot be read.

    Attributes:
        place: where in the file, as it is written after the file's name (`:17` for a line).
        message: what is wrong and how to fix it.
        lacks_text: it has no field of the name that the text is looked for under.
    """

    place: str
    message: str
    lacks_text: bool = False
