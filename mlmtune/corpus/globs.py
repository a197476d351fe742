"""Globs: which paths below a folder they match."""

import os
import re
from collections.abc import Callable

_WILDCARDS = re.compile(r"[*?[]")


def split_glob(location: str) -> tuple[str, str]:
    """The part before the first wildcard, and the pattern below it (empty for a plain path)."""
    if not _WILDCARDS.search(location) or os.path.lexists(os.path.expanduser(location)):
        return location, ""
    parts = location.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARDS.search(part))
    fixed = "/".join(parts[:first])
    if not fixed:
        fixed = "/" if location.startswith("/") else "."
    return fixed, "/".join(parts[first:])


def matcher(glob: str) -> Callable[[str], bool]:
    """Whether a path below a folder matches a glob, or lies in a folder that does.

    As in .gitignore: a glob without `/` speaks of names at any depth, one with `/` of the path from
    the top; `**` stands for any number of folders.
    """
    glob = glob.removeprefix("./")
    pattern = glob.strip("/")
    anywhere = "/" not in glob.rstrip("/")
    expression = re.compile(("(?:.*/)?" if anywhere else "") + translate(pattern) + "(?:/.*)?")
    return lambda below: expression.fullmatch(below) is not None


def translate(glob: str) -> str:
    """The regular expression of a glob whose `*` and `?` stay within a name."""
    result, place = "", 0
    while place < len(glob):
        if glob.startswith("**/", place):
            result, place = result + "(?:.*/)?", place + 3
        elif glob.startswith("**", place):
            result, place = result + ".*", place + 2
        elif found := re.compile(r"\[(!?)(\]?[^]]*)\]").match(glob, place):
            characters = (
                found[2]
                .replace("\\", "\\\\")
                .replace("[", "\\[")
                .replace("^", "\\^")
                .replace("]", "\\]")
            )
            result, place = f"{result}[{'^' if found[1] else ''}{characters}]", found.end()
        else:
            wildcards = {"*": "[^/]*", "?": "[^/]"}
            result, place = result + wildcards.get(glob[place], re.escape(glob[place])), place + 1
    return result
