from mlmtune.tables import histogram, table


def test_the_first_column_is_to_the_left_and_the_others_to_the_right():
    rows = [["", "found", "kept"], ["documents", "1,179", "9"]]
    assert list(table(rows)) == ["           found  kept", "documents  1,179     9"]


def test_a_chinese_character_takes_two_columns_and_a_colour_none():
    rows = [["\u6a21\u578b", "1"], ["abc", "\033[31m22\033[0m"]]
    assert list(table(rows)) == ["\u6a21\u578b   1", "abc   \033[31m22\033[0m"]


def test_a_cell_may_have_several_lines():
    rows = [["a", "first\nsecond"], ["bb", "third"]]
    assert list(table(rows, left=(0, 1), indent="  ")) == [
        "  a   first", "      second", "  bb  third",
    ]  # fmt: skip


def test_a_histogram_has_a_bar_for_each_count_above_zero():
    lines = list(histogram([("1", 400, "400"), ("10+", 1, "1"), ("2", 0, "0")]))
    assert lines == ["    1  " + "\u2588" * 40 + " 400", "  10+  \u2588 1", "    2  0"]
