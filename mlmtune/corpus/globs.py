"""Globs, and which paths below a folder they match."""

import os
import re
from collections.abc import Callable

_WILDCARDS = re.compile(r"[*?[]")


def split_glob(location: str) -> tuple[str, str]:
    """Return the part before the first wildcard, and the pattern after it, which may be empty."""
    if not _WILDCARDS.search(location) or os.path.lexists(os.path.expanduser(location)):
        return location, ""
    parts = location.split("/")
    first = next(i for i, part in enumerate(parts) if _WILDCARDS.search(part))
    fixed = "/".join(parts[:first])
    if not fixed:
        fixed = "/" if location.startswith("/") else "."
    return fixed, "/".join(parts[first:])


def matcher(glob: str) -> Callable[[str], bool]:
    """Return a function that tells whether a path, or a folder that it is in, matches a glob.

    As in .gitignore, a glob without `/` matches names at any depth, and a glob with `/` matches
    paths from the top; `**` matches any number of folders.
    """
    glob = glob.removeprefix("./")
    pattern = glob.strip("/")
    anywhere = "/" not in glob.rstrip("/")
    expression = re.compile(("(?:.*/)?" if anywhere else "") + translate(pattern) + "(?:/.*)?")
    return lambda below: expression.fullmatch(below) is not None


def translate(glob: str) -> str:
    """Return the regular expression of a glob, whose `*` and `?` match no `/`."""
    result, position = "", 0
    while position < len(glob):
        if glob.startswith("**/", position):
            result, position = result + "(?:.*/)?", position + 3
        elif glob.startswith("**", position):
            result, position = result + ".*", position + 2
        elif bracket := re.compile(r"\[(!?)(\]?[^]]*)\]").match(glob, position):
            characters = (
                bracket[2]
                .replace("\\", "\\\\")
                .replace("[", "\\[")
                .replace("^", "\\^")
                .replace("]", "\\]")
            )
            result, position = f"{result}[{'^' if bracket[1] else ''}{characters}]", bracket.end()
        else:
            wildcards = {"*": "[^/]*", "?": "[^/]"}
            character = glob[position]
            result += wildcards.get(character, re.escape(character))
            position += 1
    return result
