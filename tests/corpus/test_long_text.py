"""Memory for a long document stays a few times its size, whatever is in it."""

import re
import subprocess
import sys

import pytest

from mlmtune.config import CleaningConfig, MarkdownConfig, SourceConfig
from mlmtune.corpus import markdown_text
from mlmtune.corpus.listing import ListedFile
from mlmtune.corpus.long_text import substituted, with_each_line
from mlmtune.corpus.source_reader import FileRead, SourceReader, Tally

NUM_CHARACTERS = 4_000_000

PROGRAM = """
import resource, sys
from collections import Counter
from mlmtune.config import CleaningConfig, MarkdownConfig
from mlmtune.corpus.cleaning import clean, count_words

unit, size = sys.argv[1], int(sys.argv[2])
text = (unit * (size // len(unit)))[:size]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count_words(clean(text, sys.argv[3], CleaningConfig(), MarkdownConfig(), Counter()))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(
    ("unit", "markup", "bytes_per_character"),
    [
        ("ab \n", "none", 16),
        ("ab\r", "none", 16),
        ("\u4e2d\u6587", "none", 40),
        ("ab<b>", "html", 8),
    ],
    ids=["lines", "line-ends", "ideographs", "tags"],
)
def test_a_long_text_of_short_pieces_is_cleaned_in_little_memory(
    unit: str, markup: str, bytes_per_character: int
) -> None:
    child = [sys.executable, "-c", PROGRAM, unit, str(NUM_CHARACTERS), markup]
    out = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert int(out) < bytes_per_character * NUM_CHARACTERS


def test_a_page_of_too_many_marks_is_reported_as_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(markdown_text, "MAX_PAGE_MARKS", 100)
    pages = {"marks": "> " * 120 + "a\n", "lines": "a\n" * 200, "page": "# Title\n\nText.\n"}
    source = SourceConfig(format="markdown", path=str(tmp_path))
    reader = SourceReader(source, CleaningConfig(), MarkdownConfig())
    said = {}
    for name, page in pages.items():
        path = tmp_path / f"{name}.md"
        path.write_text(page, encoding="utf-8")
        tally = Tally()
        file = ListedFile(path.name, str(path), len(page), "")
        said[name] = next(reader.read_file(file, tally))
        assert tally.num_characters == (len(page) if name == "page" else 0)
        assert bool(tally.removed.total()) == (name == "page")
    advice = "; cut it, or set markup: none"
    for page in ("marks", "lines"):
        assert said[page].message == "a page of Markdown with over 100 lines and marks" + advice
    assert said["page"].text == "Title\n\nText."


def test_a_page_on_which_the_parser_panics_is_reported_as_broken(tmp_path, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(source, *, options):
        raise PanicException("range end index 7 out of\n range")

    monkeypatch.setattr(markdown_text, "events", panic)
    path = tmp_path / "page.md"
    path.write_text("# Title\n", encoding="utf-8")
    source = SourceConfig(format="markdown", path=str(tmp_path))
    reader = SourceReader(source, CleaningConfig(), MarkdownConfig())
    tally = Tally()
    said, end = reader.read_file(ListedFile(path.name, str(path), 8, ""), tally)
    assert said.message == (
        "the parser of Markdown fails (range end index 7 out of range); "
        "exclude the page, or set markup: none"
    )
    assert isinstance(end, FileRead)
    assert tally == Tally()


def test_pieces_of_blocks_are_those_of_the_whole(monkeypatch):
    monkeypatch.setattr("mlmtune.corpus.long_text.BLOCK_CHARACTERS", 3)
    text = "ab \n\n  cd\n\n\nefghi \nj"
    assert with_each_line(str.rstrip, text) == "\n".join(map(str.rstrip, text.split("\n")))
    assert substituted(re.compile("[a-d]+"), "-", text) == re.sub("[a-d]+", "-", text)
