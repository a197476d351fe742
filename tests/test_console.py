"""What is shown on a terminal."""

import sys

import pytest

from mlmtune.console import Console, shows_colours


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
    for _ in console.counted([1, 2], total=2, unit="step", what="training"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "training: 100%" in err or "training:   0%" in err
    assert "a line" not in err
