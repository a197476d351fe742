from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.config import MarkdownConfig
from mlmtune.corpus.markdown_text import markdown_text


def clean(text, **settings):
    return markdown_text(text, MarkdownConfig(**settings), Counter())


def removed_from(text, **settings):
    removed = Counter()
    markdown_text(text, MarkdownConfig(**settings), removed)
    return {step: count for step, count in removed.items() if count}


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
        ({"code_blocks": "replace"}, "[code]\n\n[code]\n\nName", "def f"),
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
        ("\n---\n# comment\nkey: v\n...\ntext", "text"),
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
        ("a ::: **b**", "a ::: b"),
        ("- a\n  ::: zone\n  b\n1. ::: zone-end\n   c", "a b\nc"),
        ('> :::image type="content"\n> source="a.png" alt-text="A":::\n> b', "b"),
        ("[!INCLUDE [`a`](b)] `[!INCLUDE [a](b)]`", "[!INCLUDE [a](b)]"),
        ("<b title='[!NOTE]'>a</b>", "a"),
    ],
)
def test_directives_of_a_docs_site_go_and_their_text_stays(source, expected):
    assert clean(source) == expected


def test_directives_can_be_kept():
    assert clean("> [!NOTE]\n> x", directives="keep") == "[!NOTE] x"
    assert clean(':::zone pivot="a"', directives="keep") == ':::zone pivot="a"'
    assert clean(':::image alt-text="A shot" source="x":::', images="text") == "A shot"
    assert clean('a<br>\n  :::image alt-text="<A>":::', images="text") == "a\n<A>"


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


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("|a|b|\n|-|-|\n| |2|\n|3| |", "a | b\n2\n3"),
        ("|a|b|c|\n|-|-|-|\n|1||3|", "a | b | c\n1 |  | 3"),
        ("|a|b|c|\n|-|-|-|\n|---|one only|---|\n|---|-|d|", "a | b | c\none only\n--- | - | d"),
        ("|sign|\n|-|\n|`\\|`|", "sign\n|"),
        ("| a | *b* | c |\n|---|---|\n| 1 | 2 | `x\\|y` |", "a | b | c\n1 | 2 | x|y"),
        ("Before:\n| a | b |\n|---||---|\n| 1 | 2 |", "Before:\na | b\n1 | 2"),
        ("a | b\nc | d", "a | b c | d"),
    ],
)
def test_tables_give_their_cells_row_by_row(source, expected):
    assert clean(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Text[^1] and[^b].\n\n[^1]: A *note*.\n\n[^b]: Note", "Text and.\n\nA note.\n\nNote"),
        ("> Text[^1].\n>\n> [^1]: https://x.y", "Text.\n\nhttps://x.y"),
        ("A class [^a-z] and code `[^1]`\n\n[^1]: z z", "A class [^a-z] and code [^1]\n\nz z"),
    ],
)  # fmt: skip
def test_marks_of_footnotes_go_and_their_text_stays(source, expected):
    assert clean(source) == expected


@pytest.mark.parametrize(
    ("source", "settings", "expected"),
    [
        ("---\na: b\n---\ntext", {}, {"front_matter": 13}),
        ("a [b](c) d", {}, {"links": len("[](c)")}),
        ('[b](c "t")', {}, {"links": len('[](c "t")')}),
        ("[b](c)", {"links": "keep"}, {"links": len("[b](c)") - len("b (c)")}),
        ("[b](c)", {"links": "drop"}, {"links": len("[b](c)")}),
        ("[b][c]\n\n[c]: d\n", {}, {"links": len("[][]") + len("[c]: d\n"), "markup": 3}),
        ("a![b](c)", {}, {"images": len("![b](c)")}),
        ("a![b](c)", {"images": "text"}, {"images": len("![](c)")}),
        ('a :::image source="b" alt-text="c":::', {"images": "text"}, {"images": 34}),
        ("[!INCLUDE [a](b)]text", {}, {"directives": len("[!INCLUDE [a](b)]")}),
        ("# [a](#tab/b)", {}, {"directives": len("[](#tab/b)"), "markup": len("# ")}),
        ("# a\n[b](#tab/c)", {}, {"links": len("[](#tab/c)"), "markup": len("# ") - 1}),
        ("a<!-- b -->", {}, {"comments": len("<!-- b -->")}),
        ("<!-- b -->", {}, {"comments": len("<!-- b -->")}),
        ("<p>a</p>", {}, {"html": len("<p></p>")}),
        ("<p>a</p>", {"html": "drop"}, {"html": len("<p>a</p>")}),
        ("a <b>c</b>", {}, {"html": len("<b></b>")}),
        ("a\n\n    code", {"code_blocks": "drop"}, {"code_blocks": 4, "markup": 6}),
        ("a\n\n    a code", {"code_blocks": "replace"}, {"markup": 4}),
        ("|a|\n|-|\n", {"tables": "drop"}, {"tables": 1, "markup": 7}),
        ("|[a](b)|\n|-|\n", {"tables": "drop"}, {"tables": len("[a](b)"), "markup": 7}),
        ("*a* `b`", {}, {"markup": 4}),
    ],
)
def test_each_part_is_counted_as_what_it_was(source, settings, expected):
    assert removed_from(source, **settings) == expected


def test_html_can_be_dropped():
    assert clean("<div>block</div>\n\na <b>word</b>", html="drop") == "a word"


def test_lines_join_without_a_space_between_wide_characters():
    assert clean("今天天气\n很好。 Azure\n云") == "今天天气很好。 Azure 云"


@pytest.mark.timeout(60)  # a minute and more in quadratic time, else a second on a busy machine
@pytest.mark.parametrize(
    "unit",
    ["[", ">", "*", "![", "[![", "- ", "*a **b ", "[!a ", "[!a [b](", "<a ", "`a``", "<!--", "> - ",
     '<a "', ":::", ":::image a=", '"\n>', "[^1]: ", "[^", "[a](", "|", "|-|\n", "&", "\\",
     "~~a~ "],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "# ", "<div>\n", "a\n"])
def test_hostile_pages_take_linear_time_and_raise_nothing(before, unit):
    clean(before + unit * (400_000 // len(unit)) + "x")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "source",
    ["# a" + " " * 1_000_000 + "b", "*a*\nb" + " " * 1_000_000 + "c",
     "# " + "[a](#tab/x) " * 50_000, "a|b|c\n-|-\n" + "d|e\n" * 100_000,
     "".join(f"[x{number}]: y\n" for number in range(50_000)),
     "".join("`" * number + " " for number in range(1000)),
     "".join("  " * depth + "- a\n" for depth in range(1000))],
)  # fmt: skip
def test_long_pages_take_linear_time_and_raise_nothing(source):
    clean(source)


@pytest.mark.parametrize("unit", ["> ", "- ", "> 1. ", "*a **b ", "[", "![a"])
def test_a_page_may_be_nested_as_deeply_as_it_likes(unit):
    assert clean(unit * 2000 + "the deepest word").endswith("the deepest word")


def test_a_giant_paragraph_is_parsed():
    assert clean("*word* " * 100_000) == " ".join(["word"] * 100_000)


def test_code_points_that_no_text_may_have_stay():
    page = "[!NOTE]\na \ufdd00\ufdd1 b \ud83d `\ufdd00\ufdd1`"
    assert clean(page) == "a \ufdd00\ufdd1 b \ud83d \ufdd00\ufdd1"


pages = st.lists(
    st.sampled_from(
        [*"#>-*_`[]()!<>|:~&;\\\n \t1.^", "word", "---", "```", ":::", "[!", "<a", "\n\n", "中",
         "[^1]", "|-|", "    ", "<!--", "-->", "![x](y)", "](", "]: ", "<p>", ":::image ", "\ud83d",
         "\ufdd00\ufdd1", "[!NOTE]", "\0"]
    )
).map("".join)  # fmt: skip
settings = st.fixed_dictionaries(
    {
        name: st.sampled_from(field.annotation.__args__)
        for name, field in MarkdownConfig.model_fields.items()
    }
)


@given(pages, settings)
def test_any_page_becomes_text_without_edges_and_all_that_went_is_counted(source, settings):
    removed = Counter()
    cleaned = markdown_text(source, MarkdownConfig(**settings), removed)
    assert cleaned == cleaned.strip()
    assert removed.total() == len(source) - len(cleaned)


@given(st.lists(st.text("abcdefgh", min_size=1), min_size=1).map(" ".join))
def test_plain_prose_is_conserved(prose):
    assert clean(prose) == prose
