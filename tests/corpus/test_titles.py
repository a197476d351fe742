import pytest

from mlmtune.corpus.titles import MOST_CHARACTERS, MOST_WORDS, title_of


@pytest.mark.parametrize(
    "title",
    ["Scale a set", "What is Azure Arc?", "概述", "x", " ".join(["word"] * MOST_WORDS),
     "w" * MOST_CHARACTERS],
)  # fmt: skip
def test_a_first_line_that_stands_alone_is_the_title(title):
    assert title_of(f"{title}\n\nThe body.\n\nMore.") == title


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Only a line",
        "A line\n\n",
        "A line\nand another\n\nThe body.",
        "A sentence.\n\nThe body.",
        "服务。\n\n正文",
        "---\n\nThe body.",
        " ".join(["word"] * (MOST_WORDS + 1)) + "\n\nThe body.",
        "w" * (MOST_CHARACTERS + 1) + "\n\nThe body.",
    ],
)
def test_anything_else_is_text(text):
    assert title_of(text) == ""
