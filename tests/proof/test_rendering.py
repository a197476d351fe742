import pytest

from mlmtune.proof.rendering import cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b\n c", r"a\|b c"), ("<b>*x*", r"\<b\>\*x\*"), ("gt_all_v2", "gt_all_v2"),
     ("_ _init_", r"\_ \_init\_"), ("the [MASK] is", "the [MASK] is"),
     ("[a](http://x)", r"[a\](http://x)"), ("`code`", r"\`code\`"), ("心_情", "心_情")],
)  # fmt: skip
def test_text_stands_in_a_cell_as_it_is(text, shown):
    assert cell(text) == shown
