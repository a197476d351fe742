"""Short names of models, for tables."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mlmtune.locations import DERIVED_FOLDERS, FILE_SCHEME, PACKAGE_SCHEME, RESULT_FOLDER


def short_names(locations: Sequence[str]) -> list[str]:
    """Return a short and distinct name for each model.

    A name is the last part of the location, or the run's name if that part is the folder `model` of
    a run. Parts before it are added until no two names are equal. Names that stay equal, such as
    those of a location that is given twice, are numbered.

    Args:
        locations: Folders, names on a hub, or `package://NAME/FOLDER`.
    """
    forms = {location: _forms(location) for location in locations}
    while True:
        counts = Counter(names[0] for names in forms.values())
        ambiguous = [names for names in forms.values() if counts[names[0]] > 1 and len(names) > 1]
        if not ambiguous:
            return _numbered([forms[location][0] for location in locations])
        for names in ambiguous:
            del names[0]


def derived_name(folder: Path) -> str:
    """Return the name of a model; one that was made of another has the name of that one first."""
    folder = folder.resolve()
    if folder.name == RESULT_FOLDER:
        return folder.parent.name
    if folder.name in DERIVED_FOLDERS:
        return f"{derived_name(folder.parent)}-{folder.name}"
    return folder.name


def _forms(location: str) -> list[str]:
    """Return the possible names of a model, from the shortest to the whole location."""
    path = location.removeprefix(PACKAGE_SCHEME).removeprefix(FILE_SCHEME)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    stem = parts[:-1] if parts[-1:] == [RESULT_FOLDER] else parts
    if not stem or stem[-1] in ("..", "~"):
        stem = parts
    names = ["/".join(stem[start:]) for start in reversed(range(len(stem)))]
    return [*names, *([] if location in names else [location])]


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, with a number behind those that have occurred before."""
    taken, numbered = set(names), []
    for index, name in enumerate(names):
        unique, number = name, 2
        while unique in taken and name in names[:index]:
            unique, number = f"{name} ({number})", number + 1
        taken.add(unique)
        numbered.append(unique)
    return numbered
