import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyromark import events

from mlmtune.printable import code_in_markdown, counted, in_markdown, printable, printable_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31mred.txt", r"a\x1b[31mred.txt"),
        ("two\nlines\r.txt", r"two\x0alines\x0d.txt"),
        ("bell\a\x9b", r"bell\x07\x9b"),
        ("\u202etxt.exe\u2066\u2028", r"\u202etxt.exe\u2066\u2028"),
        ("latin-1 \udce9, half \ud83d", r"latin-1 \xe9, half \ud83d"),
        ("un\u200bseen\ufeff", r"un\u200bseen\ufeff"),
        (
            "Grüße, 你好, می\u200cخواهم, 👩\u200d🔬 a\\b.txt",
            "Grüße, 你好, می\u200cخواهم, 👩\u200d🔬 a\\b.txt",
        ),
    ],
)
def test_a_name_prints_in_one_line_and_changes_nothing_around_it(name, shown):
    assert printable(name) == shown


@given(st.text(st.characters(categories=None)))
def test_any_name_is_printable_and_stays_so(name):
    shown = printable(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == printable_text(shown) == shown


def test_text_keeps_its_lines_and_tabs():
    assert printable_text("a\tb\n\x1b[2Jc\rd\u202e") == ("a\tb\n\\u001b[2Jc\\u000dd\\u202e")
    assert printable_text("\x1b[1;31mred\x1b[0m\x1b[2J", keeps_colours=True) == (
        "\x1b[1;31mred\x1b[0m\\u001b[2J"
    )


@given(st.recursive(st.text(st.characters(categories=None)), st.lists))
def test_json_stays_the_same_json(value):
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(printable_text(text)) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b\n c", r"a\|b c"), ("<b>*x*", r"\<b\>\*x\*"), ("gt_all_v2", "gt_all_v2"),
     ("_ _init_", r"\_ \_init\_"), ("the [MASK] is", "the [MASK] is"),
     ("[a](http://x)", r"[a\](http://x)"), ("`code`", r"\`code\`"), ("心_情", "心_情")],
)  # fmt: skip
def test_text_stands_in_a_cell_as_it_is(text, shown):
    assert in_markdown(text) == shown


@pytest.mark.parametrize("text", ["my-bert", "a`b``c", "`", "<b>|*x*"])
def test_code_reads_as_the_text(text):
    [_, code, _] = events(code_in_markdown(text))
    assert code == {"Code": text}


@pytest.mark.parametrize(
    ("number", "words", "expected"),
    [
        (0, ("document",), "0 documents"),
        (1, ("document",), "1 document"),
        (1179, ("document",), "1,179 documents"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
    ],
)
def test_a_number_agrees_with_its_noun(number: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(number, *words) == expected
