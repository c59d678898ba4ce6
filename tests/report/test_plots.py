"""Plots: what they show, and that their texts find room and are escaped."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from s3ray.monitor.timeline import Timeline
from s3ray.report.plots import (
    Bar,
    Part,
    Point,
    cost_plot,
    curve_plot,
    score_plot,
    scores_plot,
    stacked_bars,
    throughput_plot,
)


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]


@pytest.mark.parametrize("scores", [{0: 0.5}, {0: 1.0, 1: 1.0}, {0: 0.0}, {num: 0.4 + num / 50 for num in range(20)}])
@pytest.mark.parametrize("test", [None, 0.25])
def test_score_plot_writes_every_value_inside_the_picture(scores: dict[int, float], test: float | None) -> None:
    svg = score_plot("accuracy", scores, test)
    values = [*scores.values(), *([] if test is None else [test])]
    said = " ".join(element.text or "" for element in ET.fromstring(svg).iter())
    assert all(f"{value:.3f}" in said for value in values)
    beside = {values[0], max(scores.values()), list(scores.values())[-1]} if len(scores) < 6 else {values[-1]}
    assert {f"{value:.3f}" for value in beside} <= set(_texts(svg))
    heights = [float(line.get("y1", "")) for line in ET.fromstring(svg).iter("line")]
    assert min(heights) >= 14
    assert max(heights) <= 190
    dots = [float(dot.get("cy", "")) for dot in ET.fromstring(svg).iter("circle")]
    assert all(min(heights) <= y <= max(heights) for y in dots)


def test_bars_share_one_scale_and_are_escaped() -> None:
    bars = [
        Bar(
            label="a <b>", note="", parts=(Part(name="x", value=30, colour="c1"), Part(name="y", value=10, colour="c2"))
        ),
        Bar(label="c", note="", parts=(Part(name="x", value=20, colour="c1"),)),
    ]
    widths = [float(rect.get("width", "")) for rect in ET.fromstring(stacked_bars("bars", bars)).iter("rect")]
    assert [width + 1 for width in widths] == pytest.approx([345, 115, 230])
    assert "a <b>" in _texts(stacked_bars("bars", bars))


@pytest.mark.parametrize("num_engines", [1, 2, 12])
def test_throughput_stacks_few_engines_and_sums_many(num_engines: int) -> None:
    rates: dict[str, tuple[float, ...]] = {f"engine-{i}": (0.0, 50.0, 70.0) for i in range(num_engines)}
    svg = throughput_plot(Timeline(bin_s=4.0, rates=rates, training=((0, 8.0, 12.0),)))
    assert len(list(ET.fromstring(svg).iter("polygon"))) == (num_engines if num_engines <= 6 else 1)


def _numbers(svg: str, tag: str, attribute: str) -> list[float]:
    return [float(element.get(attribute, "")) for element in ET.fromstring(svg).iter(tag)]


def test_scores_have_a_dot_for_each_seed_and_a_bar_as_long_as_the_interval() -> None:
    points = [
        Point(name="a <b>", mean=0.7, scores=(0.6, 0.8), interval=(0.5, 0.9)),
        Point(name="c", mean=0.7, scores=(0.7,), interval=(0.6, 0.8)),
        Point(name="no answers", mean=0.75, scores=(0.75,)),
    ]
    svg = scores_plot("accuracy", points)
    assert len(_numbers(svg, "circle", "cx")) == 4
    widths = [width for width in _numbers(svg, "rect", "width") if width > 3]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert all(0 <= x <= 460 for x in _numbers(svg, "circle", "cx") + _numbers(svg, "rect", "x"))
    assert "a <b>" in [element.text for element in ET.fromstring(svg).iter("text")]


@pytest.mark.parametrize(("sizes", "is_even"), [((50, 200, 800), True), ((1, 2, 3), True), ((0, 1, 30), False)])
def test_a_curve_puts_far_numbers_on_a_scale_of_powers(sizes: tuple[float, ...], is_even: bool) -> None:
    line = [Point(name="", mean=0.5 + size / 2000, interval=(0.4, 0.95), x=size) for size in sizes]
    svg = curve_plot("accuracy", "size", {"s3": line})
    first, second, third = _numbers(svg, "circle", "cx")
    assert (second - first == pytest.approx(third - second, abs=0.2)) is is_even
    assert all(14 <= y <= 210 for y in _numbers(svg, "circle", "cy") + _numbers(svg, "line", "y1"))


def test_more_lines_than_colours_are_all_drawn_and_can_be_told_apart() -> None:
    lines = {f"method {i}": [Point(name="", mean=0.5, x=x) for x in (1.0, 2.0)] for i in range(11)}
    drawn = [
        (line.get("class"), line.get("stroke-dasharray"))
        for line in ET.fromstring(curve_plot("f1", "size", lines)).iter("polyline")
    ]
    assert len(drawn) == len(set(drawn)) == 11


@pytest.mark.parametrize("num", [2, 5, 30])
def test_names_of_points_at_one_place_do_not_cover_each_other(num: int) -> None:
    points = [Point(name=f"method {i}", mean=0.8 - i / 10000, x=100.0 + i % 2) for i in range(num)]
    root = ET.fromstring(cost_plot("accuracy", "device-s", points))
    height = float(root.get("viewBox", "").split()[3])
    names = [float(text.get("y", "")) for text in root.iter("text") if (text.text or "").startswith("method")]
    assert len(names) == num
    assert all(later - earlier >= 14.9 for earlier, later in itertools.pairwise(names))
    assert 0 < min(names) < max(names) < height - 14
