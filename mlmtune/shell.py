"""Commands as they are printed: quoted, and with a program that is found where they are pasted."""

import shlex
import shutil
import sys
from pathlib import Path


def own_command(*arguments: str | Path) -> str:
    """A command of mlmtune, such as `mlmtune fill --model 'my runs/azure/model'`.

    It begins with the path of this Python where a shell would not find this installation's
    `mlmtune`, because its environment is not active.
    """
    return shlex.join([*_program("mlmtune"), *map(str, arguments)])


def pip_install(requirement: str) -> str:
    """The command that installs a requirement beside mlmtune."""
    return shlex.join([*_program("pip"), "install", requirement])


def holds_command(line: str) -> bool:
    """Whether a line has a command in it, which would not work when pasted in two lines."""
    return any(f"{shlex.join(_program(name))} " in line for name in ("mlmtune", "pip"))


def _program(name: str) -> list[str]:
    found = shutil.which(name)
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return [name]
    return [sys.executable, "-m", name]
