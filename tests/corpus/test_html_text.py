import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.corpus.html_text import html_text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("One.<br /><br />Two.<BR>Three", "One.\n\nTwo.\nThree"),
        ("fish &amp; chips &lt;hot&gt; &#233;", "fish & chips <hot> é"),
        ("R&D, AT&T; and ?a=1&copy=2", "R&D, AT&T; and ?a=1&copy=2"),
        ("a < b and b > c, x <y", "a < b and b > c, x <y"),
        ("use <resource-group> and <your name>", "use <resource-group> and <your name>"),
        ("<b>bold</b> <a href='x' title=\"a > b\">link</a>", "bold link"),
        ("<p>\n   spread   out\n</p>", "\n\nspread out\n\n"),
        ("<tr><th>A</th><th>B</th></tr><tr><td>1<td><td>3</tr>", "\nA | B\n\n1 | | 3\n"),
        ("a<!-- note -->b", "ab"),
        ("a<!-- never closed <b>", "a"),
        ("<script>if (a < b) {}</script >text<STYLE>p {}</STYLE>", "text"),
        ("the <script> tag and its <style> are explained", "the tag and its are explained"),
        ("İİİ<script>x</script>y", "İİİy"),
        ("<!DOCTYPE html><?xml version='1'?>text", "text"),
        ("x <b never closed", "x <b never closed"),
        ("a  b\n   indented, without a tag", "a  b\n   indented, without a tag"),
    ],
)  # fmt: skip
def test_tags_comments_and_entities_go_and_comparisons_stay(source, expected):
    assert html_text(source, Counter()) == expected


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "&", "amp;", "#9;", "<p>", "</p>", "<td>", "<!--", "-->", "<script>",
             "</script>", "<svg", " ", "\n", "'", '"', "=", "x", "<y-z>"]
        )
    ).map("".join)
)  # fmt: skip
def test_what_is_counted_is_what_went(source):
    removed = Counter()
    assert len(source) - len(html_text(source, removed)) == removed.total()
    assert set(removed) <= {"comments", "html"}


def test_comments_are_counted_apart_from_tags():
    removed = Counter()
    html_text("<i>a</i><!-- b -->", removed)
    assert removed == {"html": len("<i></i>"), "comments": len("<!-- b -->")}


@pytest.mark.parametrize(
    "source",
    ["<" * 100_000, "<a " * 50_000, "<!--" * 50_000, "<script>" * 20_000, "</script>" * 20_000,
     '<a "' * 50_000, "&" * 100_000, "&#" * 50_000 + ";", "<p>" + " " * 100_000 + "x",
     "<style>" * 20_000 + "</style>", "<td>" * 20_000],
)  # fmt: skip
def test_hostile_html_is_quick(source):
    start = time.perf_counter()
    html_text(source, Counter())
    assert time.perf_counter() - start < 3  # a tenth of a second on an idle machine
