"""Models have names that people can read in a table."""

from collections import Counter
from collections.abc import Sequence

from mlmtune.locations import FILE_SCHEME, PACKAGE_SCHEME, RESULT_FOLDER


def short_names(locations: Sequence[str]) -> list[str]:
    """A short name for each model, by which no two of them are taken for each other.

    The last part of the location, or the run's name where that is the folder `model` in a run's
    directory; as many more parts before it as are needed to tell it from the others. What is given
    again, or what no part tells apart, is numbered.

    Args:
        locations: folders, names on a hub, or `package://NAME/FOLDER`.
    """
    distinct = list(dict.fromkeys(locations))
    forms = [_forms(location) for location in distinct]
    lengths = [0] * len(forms)
    while True:
        names = [form[length] for form, length in zip(forms, lengths, strict=True)]
        counts = Counter(names)
        longer = [
            length + (counts[name] > 1 and length + 1 < len(form))
            for name, form, length in zip(names, forms, lengths, strict=True)
        ]
        if longer == lengths:
            name_of = dict(zip(distinct, names, strict=True))
            return _numbered([name_of[location] for location in locations])
        lengths = longer


def _forms(location: str) -> list[str]:
    """What a model may be called, the shortest first, the whole location last."""
    path = location.removeprefix(PACKAGE_SCHEME).removeprefix(FILE_SCHEME)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    stem = parts[:-1] if parts[-1:] == [RESULT_FOLDER] else parts
    if not stem or stem[-1] in ("..", "~"):
        stem = parts
    names = ["/".join(stem[start:]) for start in reversed(range(len(stem)))]
    return [*names, *([] if location in names else [location])]


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number after those that others have, too."""
    taken, numbered = set(names), []
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        unique = name
        if seen[name] > 1:
            while (unique := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(unique)
        numbered.append(unique)
    return numbered
