"""What may happen to a file between being written and being read."""

from collections.abc import Callable
from pathlib import Path


def truncate(file: Path) -> None:
    """Cut its end off."""
    file.write_bytes(file.read_bytes()[:-3])


def extend(file: Path) -> None:
    """Let it end with bytes that nobody wrote."""
    file.write_bytes(file.read_bytes() + b"\0" * 8)


def flip_a_bit(file: Path) -> None:
    """Change one bit in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: list[Callable[[Path], None]] = [truncate, extend, flip_a_bit, Path.unlink]
