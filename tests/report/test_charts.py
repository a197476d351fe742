import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlmtune.report.charts import (
    SQUARE,
    WIDTH,
    Band,
    Range,
    Series,
    Spot,
    interval_chart,
    line_chart,
    trade_off_chart,
)

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value if abs(value) > 1e-6 else 0)
POINTS = st.lists(st.tuples(st.integers(0, 10_000), NUMBERS), min_size=1, max_size=30)


def places(chart, name):
    root = ElementTree.fromstring(chart)
    return [
        float(element.get(name))
        for element in root.iter()
        if element.get(name) is not None and "dot" in element.get("class", "")
    ]


@given(points=POINTS)
def test_a_line_stays_on_its_chart(points):
    points = sorted(points)
    chart = line_chart("a <title>", [Series("one & only", points)])
    root = ElementTree.fromstring(chart)
    [line] = [element for element in root.iter() if element.tag.endswith("polyline")]
    drawn = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(drawn) == len(points)
    height = float(root.get("viewBox").split()[3])
    assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in drawn)
    # Higher values are higher up.
    by_value = sorted(zip([value for _, value in points], [y for _, y in drawn], strict=True))
    ys = [y for _, y in by_value]
    assert ys == pytest.approx(sorted(ys, reverse=True), abs=0.11)


def test_values_over_decades_are_drawn_by_their_logarithm():
    chart = line_chart(
        "perplexity", [Series("all", [(0, 1000.0), (1, 100.0), (2, 10.0)])], may_be_log=True
    )
    first, second, third = places(chart, "cy")[:3]  # the legend has one, too
    assert second - first == pytest.approx(third - second, abs=0.2)


def test_a_legend_that_is_too_long_for_a_line_takes_more_of_them():
    names = ["a run", "replay", "a run with a long name", "另一个名字很长的模型运行"]
    chart = line_chart("loss", [Series(name, [(0, 1.0), (1, 2.0)]) for name in names])
    root = ElementTree.fromstring(chart)
    top = float(root.get("viewBox").split()[1])
    places = {
        e.text: (float(e.get("x")), float(e.get("y"))) for e in root.iter() if e.text in names
    }
    assert len(set(places.values())) == len(names)
    assert all(x < WIDTH - 60 and y - 10 >= top for x, y in places.values())
    assert len({y for _, y in places.values()}) > 1
    for name in names:  # said in words, for readers who do not see the chart
        assert f"{name}: 1 at step 0, 2 at step 1, lowest 1" in root.get("aria-label")


def test_an_interval_chart_has_its_zero_its_unit_and_its_numbers_in_words():
    rows = [Range("one", -0.5, (-0.6, -0.4), "-0.500 [-0.600, -0.400]", 0)]
    root = ElementTree.fromstring(interval_chart("Change of the loss, nats per token", rows))
    [zero] = [e for e in root.iter() if e.get("class") == "zero"]
    [dot] = [e for e in root.iter() if "dot" in e.get("class", "")]
    assert float(dot.get("cx")) < float(zero.get("x1")) <= WIDTH
    texts = [e.text for e in root.iter() if e.text]
    assert {"0", "nats per token", "one"} <= set(texts)
    assert "one: -0.500 [-0.600, -0.400]" in root.get("aria-label")


def test_nothing_to_draw_is_no_chart():
    assert line_chart("empty", [Series("none", [])]) == ""
    assert line_chart("not a number", [Series("nan", [(0, float("nan"))])]) == ""
    assert interval_chart("empty", []) == ""


def test_a_long_series_is_thinned_and_keeps_its_end():
    chart = line_chart("long", [Series("s", [(x, float(x)) for x in range(10_001)])])
    [points] = re.findall(r'points="([^"]*)"', chart)
    assert len(points.split()) <= 402
    straight = line_chart("short", [Series("s", [(0, 0.0), (10_000, 10_000.0)])])
    assert points.split()[-1] == re.findall(r'points="([^"]*)"', straight)[0].split()[-1]


def test_the_dot_lies_in_its_bar():
    rows = [
        Range("base <b>", 500.0, (400.0, 600.0), "500", 0),
        Range("x" * 80, 20.0, None, "20", 1),
    ]
    root = ElementTree.fromstring(interval_chart("before and after", rows))
    [bar] = [element for element in root.iter() if "bar" in element.get("class", "")]
    dots = [element for element in root.iter() if "dot" in element.get("class", "")]
    assert float(bar.get("x1")) < float(dots[0].get("cx")) < float(bar.get("x2"))
    assert float(dots[1].get("cx")) < float(bar.get("x1"))


@given(places_of=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_a_trade_off_stays_on_its_chart_with_its_intervals_and_names(places_of):
    spots = [
        Spot(f"<{number}>", x, y, (x - 1, x + 1), (y - 1, y + 2), f"{x} and {y}", 1)
        for number, (x, y) in enumerate(places_of)
    ]
    chart = trade_off_chart("a & b", ("won, nats", "lost, nats"), spots[:-1], spots[-1:])
    root = ElementTree.fromstring(chart)
    assert all(f"<{number}>: " in root.get("aria-label") for number in range(len(spots)))
    assert len(places(chart, "cx")) == len(spots)
    assert sum(e.get("class", "").startswith("whisker") for e in root.iter()) == 2 * len(spots)
    for name, end in (("x", WIDTH), ("y", SQUARE)):
        for suffix in ("", "1", "2"):
            found = (e.get(name + suffix) for e in root.iter() if e.get("class") != "tick")
            assert all(0 <= float(value) <= end for value in found if value is not None)
    [line] = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(line.get("points").split()) == len(spots) - 1


def test_names_that_would_meet_stand_apart():
    spots = [Spot(name, 0.0, 0.0, (-1, 1), (-1, 1), "", 1) for name in ("one", "two", "three")]
    root = ElementTree.fromstring(trade_off_chart("t", ("x", "y"), spots))
    labels = [e for e in root.iter() if e.text in ("one", "two", "three")]
    assert len({(e.get("class"), e.get("y")) for e in labels}) == 3


def test_bands_are_named_and_stay_on_the_chart():
    bands = [Band("stable & long", 0, 80), Band("decay", 80, 100), Band("x", 100, 120)]
    chart = line_chart("loss", [Series("all", [(0, 2.0), (100, 1.0)])], bands=bands)
    root = ElementTree.fromstring(chart)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"stable & long", "decay"} <= set(texts)
    assert "x" not in texts  # it lies beyond the last step
    [shaded] = [element for element in root.iter() if element.tag.endswith("rect")]
    assert float(shaded.get("x")) + float(shaded.get("width")) <= WIDTH
