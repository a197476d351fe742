"""Commands that are printed, so that they work when a user pastes them into a shell."""

import shlex
import shutil
import sys
from pathlib import Path


def own_command(*arguments: str | Path) -> str:
    """Return a command of mlmtune, such as `mlmtune fill --model 'my runs/azure/model'`.

    It begins with the path of this Python if a shell would not find `mlmtune`, because the
    environment is not active.
    """
    return shlex.join([*_program("mlmtune"), *map(str, arguments)])


def pip_install(requirement: str) -> str:
    """Return the command that installs a requirement into the environment of mlmtune."""
    return shlex.join([*_program("pip"), "install", requirement])


def holds_command(line: str) -> bool:
    """Whether a line contains a command, which would not work when it is wrapped."""
    return any(f"{shlex.join(_program(name))} " in line for name in ("mlmtune", "pip"))


def _program(name: str) -> list[str]:
    path = shutil.which(name)
    if path is not None and Path(path).parent == Path(sys.executable).parent:
        return [name]
    return [sys.executable, "-m", name]
