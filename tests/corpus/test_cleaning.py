import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import MarkdownConfig
from mlmtune.corpus.cleaning import clean_markdown, clean_plain, content_hash


def clean(text, **settings):
    return clean_markdown(text, MarkdownConfig(**settings))


def test_plain_text_loses_nothing_but_its_edges_and_control_characters():
    assert clean_plain("\ufeff  one\r\ntwo\rthree\x00\x07\tfour  five\x0cpage \n\n") == (
        "one\ntwo\nthree\tfour  five\npage"
    )


def test_half_a_surrogate_pair_becomes_a_character_that_can_be_written():
    assert clean_plain("a\ud800b") == "a\ufffdb"


@given(st.text())
def test_plain_cleaning_conserves_all_visible_text_and_is_idempotent(text):
    cleaned = clean_plain(text)
    assert clean_plain(cleaned) == cleaned
    cleaned.encode()
    for_comparison = [c for c in text if unicodedata.category(c) not in ("Cc", "Cs")]
    kept = "".join(c for c in for_comparison if c != "\ufeff" and not c.isspace())
    assert "".join(c for c in cleaned if not c.isspace() and c != "\ufffd") == kept.replace(
        "\ufffd", ""
    )


def test_hash_sees_through_white_space_and_composition():
    assert content_hash("Käse  und\nBrot ") == content_hash("Ka\u0308se und Brot")
    assert content_hash("ab c") != content_hash("a bc")
    assert content_hash("Case") != content_hash("case")
    assert 0 <= content_hash("x") < 2**128


@given(words=st.lists(st.text("ab\u0308", min_size=1), max_size=9), size=st.integers(1, 9))
def test_hash_does_not_depend_on_its_slices(words, size):
    text = " ".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlmtune.corpus.cleaning._HASH_SLICE_CHARACTERS", size)
        sliced = content_hash("\n\n" + "  ".join(words))
    assert sliced == content_hash(text)


PAGE = """---
title: Front
description: matter
---

# Heading with `code` and *marks*

A paragraph of
two lines with a [link](https://example.com "title"), a [reference][ref],
an ![image of a cat](cat.png), <https://auto.link>, &amp; an entity &copy; and \\*escapes\\*.\\
After a hard break.

- first **item**
- second item
  1. nested item
- [x] done

1. loose

   more of it

2. end

> quoted
> text

```python
def f():
    return 1
```

    indented code

| Name | Value |
|------|:-----:|
| a    | `1\\|2` |
|      | x<br>y |

Setext
======
***
[ref]: /target
"""


def test_a_page_becomes_plain_lines():
    assert (
        clean(PAGE)
        == """Heading with code and marks

A paragraph of two lines with a link, a reference, an , https://auto.link, & an entity © and \
*escapes*.
After a hard break.

first item
second item
nested item
done

loose

more of it

end

quoted text

def f():
    return 1

indented code

Name | Value
a | 1|2
x y

Setext"""
    )


@pytest.mark.parametrize(
    ("settings", "there", "gone"),
    [
        ({"code_blocks": "drop"}, "`code`"[1:-1], "def f"),
        ({"tables": "drop"}, "quoted text", "Name | Value"),
        (
            {"links": "keep"},
            "a link (https://example.com), a reference (/target),",
            "link (https://auto",
        ),
        ({"links": "drop"}, "with a , a ,", "auto.link"),
        ({"images": "text"}, "an image of a cat,", "cat.png"),
    ],
)
def test_what_to_keep_is_a_choice(settings, there, gone):
    assert there in clean(PAGE, **settings)
    assert gone not in clean(PAGE, **settings)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("---\nkey: v\n---\ntext", "text"),
        ("\ufeff\r\n---\r\n# comment\r\nkey: v\r\n...\r\ntext", "text"),
        ("---\n---\ntext", "text"),
        ("---\n\nA rule, then text.\n\n---\n\nmore", "A rule, then text.\n\nmore"),
        ("---\n# Heading\n\ntext\n\n---\n", "Heading\n\ntext"),
        ("---\nkey: never closed", "key: never closed"),
        ("text\n\n---\nkey: v\n---\n", "text\n\nkey: v"),
    ],
)
def test_front_matter_is_at_the_start_and_closed(source, expected):
    assert clean(source) == expected


def test_code_at_the_start_of_a_page_is_code():
    assert clean("\n    a *b*") == "a *b*"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("> [!NOTE]\n> Mind this.", "Mind this."),
        ("> [!Important] Mind this.", "Mind this."),
        ("Before [!INCLUDE [name](../a.md)] after", "Before after"),
        ("[!INCLUDE[name](a.md)]\n\ntext", "text"),
        ("[!code-csharp[Main](~/x.cs)]", ""),
        ("> [!VIDEO https://x.y/z]", ""),
        ('> [!div class="nextstepaction"]\n> [Next page](next.md)', "Next page"),
        (':::image type="content" source="a.png" alt-text="A: shot":::', ""),
        ('text :::image type="icon" source="a.png"::: more', "text more"),
        (':::image type="content"\n source="a.png" alt-text="A":::\ntext', "text"),
        ('text\n:::zone pivot="a"\nin zone\n:::zone-end\nafter', "text in zone after"),
        ('::: moniker range=">=1"\n\n## Heading\n\n::: moniker-end', "Heading"),
        (
            ':::code source="y":::\n\n:::row:::\n:::column span="2":::\ntext\n:::row-end:::',
            "text",
        ),
        ("# [Portal](#tab/portal)\ntext\n# [CLI](#tab/cli)", "Portal\n\ntext\n\nCLI"),
        ("## Title {#custom-id}", "Title"),
        ('1. step\n\n         :::image source="a":::\n', "step"),
        ("`[!NOTE]` and `:::zone` are marks", "[!NOTE] and :::zone are marks"),
        ("```\n[!NOTE]\n:::zone\n```", "[!NOTE]\n:::zone"),
        ("::std::move and a[!x]", "::std::move and a[!x]"),
    ],
)
def test_directives_of_a_docs_site_go_and_their_text_stays(source, expected):
    assert clean(source) == expected


def test_directives_can_be_kept():
    assert clean("> [!NOTE]\n> x", directives="keep") == "[!NOTE] x"
    assert clean(':::zone pivot="a"', directives="keep") == ':::zone pivot="a"'
    assert clean(':::image alt-text="A shot" source="x":::', images="text") == "A shot"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<!-- a comment -->\n\ntext <!-- here --> too", "text too"),
        ("|a|\n|-|\n|<ul><li>one</li><li>two</li></ul>|", "a\none two"),
        ("a<br/>b <kbd>Ctrl</kbd>+<b>C</b>", "a\nb Ctrl+C"),
        ("<details>\n<summary>More</summary>\n\n**inner**\n\n</details>", "More\n\ninner"),
        ("<script>\nvar x = '<p>';\n\n</script>\n\ntext", "text"),
        ("<style>p {}</style>", ""),
        (
            '<table><tr><th>A</th><th title="a > b">B</th></tr><tr><td>1 &lt; 2</td></tr></table>',
            "A | B\n1 < 2",
        ),
        ("<p>it's <a href='x'>here</a></p>", "it's here"),
        ("<div>\nnever <b closed\n", "never <b closed"),
        ("<!-- never closed\n\ntext", ""),
        ("Use <resource-group> and <your name>.", "Use <resource-group> and <your name>."),
        ('<x-tab label="a">text</x-tab>', "text</x-tab>"),
    ],
)
def test_html_gives_its_text(source, expected):
    assert clean(source) == expected


def test_html_can_be_dropped():
    assert clean("<div>block</div>\n\na <b>word</b>", html="drop") == "a word"


def test_lines_join_without_a_space_between_wide_characters():
    assert clean("今天天气\n很好。 Azure\n云") == "今天天气很好。 Azure 云"


@pytest.mark.parametrize(
    "source",
    ["[" * 20_000, ">" * 20_000, "![" * 10_000, "- " * 20_000, "*a **b " * 10_000,
     "[!a " * 10_000, "<a " * 20_000, "`a``" * 20_000, "<div>\n" + "<!--" * 20_000,
     "<div>\n" + '<a "' * 20_000, "> - " * 5000 + "x"],
)  # fmt: skip
def test_hostile_nesting_is_quick_and_raises_nothing(source):
    start = time.perf_counter()
    clean(source)
    assert time.perf_counter() - start < 5  # a second on an idle machine


def test_a_page_nested_too_deeply_for_the_parser_loses_nothing():
    assert "the deepest word" in clean("> " * 300 + "the deepest word")
    assert clean("> " * 90 + "the deepest word") == "the deepest word"


def test_a_giant_paragraph_stays_as_it_is():
    text = "*word* " * 100_000
    assert clean(text) == text.strip()


markdown = st.lists(
    st.sampled_from(
        [*"#>-*_`[]()!<>|:~&;\\\n \t1.", "word", "---", "```", ":::", "[!", "<a", "\n\n", "中"]
    )
).map("".join)


@given(markdown)
def test_any_markdown_is_cleaned_to_text_without_edges(source):
    for settings in ({}, {"links": "keep", "html": "drop", "directives": "keep"}):
        cleaned = clean(source, **settings)
        assert cleaned == cleaned.strip()


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=1).map(" ".join))
def test_plain_prose_is_conserved(prose):
    assert clean(prose) == prose
