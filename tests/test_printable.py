"""Numbers as they are shown to people."""

import pytest

from mlmtune.printable import counted


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ("document",), "0 documents"),
        (1, ("document",), "1 document"),
        (1179, ("document",), "1,179 documents"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_number_agrees_with_its_noun(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected
