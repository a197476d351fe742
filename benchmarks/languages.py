"""The extra `cleaning`: how often a language is mistaken, and what of mojibake is repaired.

The folder has a folder of .txt files for each language, named by its code. Paragraphs that two
languages have in common are not translated, and left out. Documents are paragraphs in a row.

- `left out`: documents that are left out although their language is the only one of
  `corpus.languages`.
- `undetermined`: documents that stay because they have too few words.
- `kept`: of the other documents, the share that stays although `corpus.languages` has another one
  of these languages, on average over those.

Lines with other characters than ASCII are read in wrong encodings and repaired. `restored`: those
that are again what they were. `unchanged`: those in which no mojibake is found. `other`: those that
are changed to something else. `fine lines` are repaired as they are; nothing should change.
"""

import argparse
import codecs
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus.cleaning import clean
from mlmtune.corpus.languages import LEAST_PROBABILITY, UNDETERMINED, recognise
from options import CommandLine, main
from report import table, write_json

LENGTHS = (200, 500, 2000, 10_000)
ENCODINGS = ("latin-1", "cp1252", "cp1251", "cp437", "macroman")
MOST_DOCUMENTS = 300
"""Documents of a language and length that are measured, drawn by a fixed seed."""


def command_line() -> CommandLine:
    arguments = CommandLine(__doc__)
    arguments.add_argument("folder", type=Path, help="a folder with a folder for each language")
    return arguments


def benchmark() -> None:
    options: argparse.Namespace = command_line().parse_args()
    paragraphs = read(options.folder)
    recognised = {length: recognition(paragraphs, length) for length in LENGTHS}
    header = ["characters", "documents", "left out", "undetermined", "kept"]
    print(table(header, [_shares(f"{n:,}", recognised[n]) for n in LENGTHS]))
    repaired = {language: repairs(texts) for language, texts in paragraphs.items()}
    header = ["text, read as", "lines", "restored", "unchanged", "other"]
    rows = [
        _shares(f"{language}, {encoding}", counts)
        for language, by_encoding in repaired.items()
        for encoding, counts in by_encoding.items()
    ]
    print(table(header, rows))
    write_json(options.json, benchmark="languages", recognised=recognised, repaired=repaired)


def read(folder: Path) -> dict[str, list[str]]:
    """Return the paragraphs of each language that no other language has."""
    paragraphs = {
        path.name: [
            paragraph
            for file in sorted(path.glob("*.txt"))
            for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8"))
        ]
        for path in sorted(folder.iterdir())
    }
    languages = Counter(p for texts in paragraphs.values() for p in set(texts))
    return {name: [p for p in texts if languages[p] == 1] for name, texts in paragraphs.items()}


def documents(paragraphs: list[str], length: int) -> Iterator[str]:
    """Yield documents of at least so many characters."""
    document = ""
    for paragraph in paragraphs:
        document += paragraph + "\n\n"
        if len(document) >= length:
            yield document
            document = ""


def recognition(paragraphs: dict[str, list[str]], length: int) -> dict[str, float]:
    """Recognise the languages of documents, and count mistakes."""
    counts: Counter[str] = Counter()
    for own, texts in paragraphs.items():
        every = list(documents(texts, length))
        chosen = random.Random(0).sample(every, min(len(every), MOST_DOCUMENTS))
        counts["documents"] += len(chosen)
        others = [language for language in paragraphs if language != own]
        for document in chosen:
            found = recognise(document, [own])
            if found.language == UNDETERMINED:
                counts["undetermined"] += 1
                continue
            counts["left out"] += found.probability < LEAST_PROBABILITY
            stays = [recognise(document, [other]).probability for other in others]
            counts["comparisons"] += len(others)
            counts["kept"] += sum(probability >= LEAST_PROBABILITY for probability in stays)
    return {
        "documents": counts["documents"],
        "left out": counts["left out"] / max(counts["documents"], 1),
        "undetermined": counts["undetermined"] / max(counts["documents"], 1),
        "kept": counts["kept"] / max(counts["comparisons"], 1),
    }


def repairs(paragraphs: list[str]) -> dict[str, dict[str, float]]:
    """Garble and repair the lines of a language, in each encoding and in none."""
    lines = [line for paragraph in paragraphs for line in paragraph.splitlines()]
    lines = [line for line in lines if not line.isascii()]
    measured = {}
    for encoding in ("fine lines", *ENCODINGS):
        counts: Counter[str] = Counter()
        for line in lines:
            garbled = line
            if encoding != "fine lines":
                garbled = line.encode().decode(encoding, "as_latin_1")
            result = _repaired(garbled)
            is_same = "restored" if result == line else "other"
            counts["unchanged" if result == garbled else is_same] += 1
        shares = {name: counts[name] / len(lines) for name in ("restored", "unchanged", "other")}
        measured[encoding] = {"lines": len(lines), **shares}
    return measured


_KEEP: dict[str, Any] = {"unicode": "keep", "control_characters": "keep", "white_space": "keep"}
_SETTINGS = CleaningConfig(mojibake="repair", **_KEEP)
_repaired = partial(
    clean, markup="none", cleaning=_SETTINGS, markdown=MarkdownConfig(), removed=Counter()
)


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    """Read bytes that an encoding does not define as control characters, as browsers do."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("as_latin_1", _as_latin_1)


def _shares(name: str, counts: dict[str, float]) -> list[str]:
    number, *shares = counts.values()
    return [name, f"{number:,}", *(f"{share:.1%}" for share in shares)]


if __name__ == "__main__":
    main(benchmark)
