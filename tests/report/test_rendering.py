import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from judged import BETTER, UNCLEAR, WORSE, pages, report

from mlmtune.report.findings import (
    Estimate,
    Opinion,
    Probe,
    ProbeRow,
    ProposedWord,
    Question,
    Report,
)
from mlmtune.report.rendering import to_html, to_markdown

ENTITIES = Probe(
    "entities", 100, "100 sentences", ("precision", "recall", "micro_f1"), ("old", "new"),
    (
        ProbeRow("frozen", 50, "old", ((0.5,), (0.6,), (0.55,)), None),
        ProbeRow("frozen", 50, "new", ((0.6,), (0.7,), (0.65,)), Estimate(0.1, (0.0, 0.2))),
    ),
    ("new against old: better.",), (), format_version=2,
)  # fmt: skip
TOPICS = replace(
    ENTITIES, task="topics | of | news", metrics=("accuracy", "macro_f1"),
    rows=tuple(replace(row, scores=row.scores[1:]) for row in ENTITIES.rows),
)  # fmt: skip
FEWER_FOUND = Estimate(-0.3, (-0.4, -0.2))


@pytest.mark.parametrize(
    "one",
    [
        report(BETTER, UNCLEAR),
        report(BETTER, found=pages(FEWER_FOUND)),
        report(WORSE, WORSE, found=pages(FEWER_FOUND)),
        report(BETTER, is_new=True),
        replace(report(BETTER, UNCLEAR), probes=(ENTITIES, TOPICS)),
    ],
    ids=["improved", "mixed", "worse", "new head", "probes"],
)
def test_every_kind_of_report_has_whole_tables_and_closed_elements(one: Report) -> None:
    markdown = to_markdown(one)
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    page = Page()
    page.feed(to_html(one))
    assert page.open == []
    assert one.verdicts[0].label.replace(" ", "-") in page.classes
    for step in one.verdicts[0].steps:
        assert step.text in page.text
        assert step.command in page.text
        assert step.command in markdown


def test_each_blank_of_a_sentence_has_its_number() -> None:
    guess = Opinion("new", None, (ProposedWord(",", ",", 0.5),))
    question = Question("The [MASK] of the [MASK].", ((guess, guess), (guess, guess)))
    one = replace(report(BETTER), questions=(question,))
    for page in (to_html(one), to_markdown(one)):
        assert [page.count(f"after, blank {number}") for number in (1, 2, 3)] == [2, 2, 0]
    # A guess may be a comma, which a list with commas would hide.
    assert "<b>,</b>" in to_html(one)
    assert "`,`" in to_markdown(one)


class Page(HTMLParser):
    """Reads a page, of which each element must be closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open = list[str]()
        self.classes = set[str]()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.classes.update((dict(attrs).get("class") or "").split())
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("circle", "line", "polyline")

    def handle_data(self, data: str) -> None:
        self.text += data
