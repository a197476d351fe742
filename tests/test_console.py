"""What is shown on a terminal."""

import io
import sys
from collections.abc import Callable

import pytest

from mlmtune.console import Console, for_stream, shows_colours
from mlmtune.shell import own_command


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "expected"),
    [(True, None, True), (True, "", True), (True, "1", False), (False, None, False)],
)
def test_colours_are_for_terminals_that_want_them(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, no_color: str | None, expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert shows_colours() is expected


def test_what_runs_many_shows_their_bars_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = Console(shows_lines=False)
    console.say("a line")
    console.result("a result")
    for _ in console.under_bar([1, 2], total=2, unit="step", what="training"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "training: 100%" in err or "training:   0%" in err
    assert "a line" not in err


class TestATerminalOf40Columns:
    @pytest.fixture
    def shown(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
        monkeypatch.setenv("COLUMNS", "40")
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        return lambda text: for_stream(text, terminal).split("\n")

    def test_breaks_prose_between_words(self, shown: Callable[[str], list[str]]) -> None:
        text = "no word of this sentence is broken, however long the sentence is"
        assert " ".join(shown(text)) == text
        assert max(map(len, shown(text))) <= 40

    def test_keeps_the_column_of_a_named_line(self, shown: Callable[[str], list[str]]) -> None:
        lines = shown("device      cpu, fp32, eager attention, head on masked positions")
        assert lines == [
            "device      cpu, fp32, eager attention,",
            "            head on masked positions",
        ]

    def test_counts_no_column_for_colours(self, shown: Callable[[str], list[str]]) -> None:
        red = "\033[31mwrong\033[0m"
        assert shown(" ".join([red] * 7)) == [" ".join([red] * 6), red]

    @pytest.mark.parametrize(
        "line",
        [
            "a table  of columns  that is wider than  the terminal is",
            f"to push it: {own_command('push', 'a b', '--repo', 'a-long-name/a-longer-name')}",
            "short",
            "https://example.org/an/address/without/any/space/in/it",
        ],
    )
    def test_leaves_tables_and_commands_whole(
        self, shown: Callable[[str], list[str]], line: str
    ) -> None:
        assert shown(line) == [line]

    def test_is_all_that_is_wrapped_for(self) -> None:
        text = "word " * 100
        assert for_stream(text, io.StringIO()) == text
