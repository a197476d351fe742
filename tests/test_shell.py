"""Commands that work where they are pasted."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlmtune import __version__
from mlmtune.shell import own_command, pip_install


@pytest.mark.parametrize("argument", ["runs/a b", "it's", "$HOME", "[1, 2]", "文档", "a\nb"])
def test_arguments_survive_the_shell(argument: str) -> None:
    assert shlex.split(own_command("fill", "--model", Path(argument)))[-1] == argument


def test_a_program_that_the_shell_does_not_find_is_called_by_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    command = own_command("--version")
    assert command == f"{shlex.quote(sys.executable)} -m mlmtune --version"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert ran.stdout == f"mlmtune {__version__}\n"


def test_a_program_of_the_active_environment_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("python", "mlmtune", "pip"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_command("report", "runs/x") == "mlmtune report runs/x"
    assert pip_install("mlmtune[zh]") == "pip install 'mlmtune[zh]'"
