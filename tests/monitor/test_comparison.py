"""The plots of a comparison show every value, inside of the picture, and no name on top of another."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from s3ray.monitor.comparison import Point, cost_plot, curve_plot, scores_plot


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
