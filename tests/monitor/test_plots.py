import xml.etree.ElementTree as ET

import pytest

from s3ray.monitor.plots import Bar, Part, score_plot, stacked_bars, throughput_plot
from s3ray.monitor.timeline import Timeline


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
