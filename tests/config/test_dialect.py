from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.config.dialect import dump
from s3ray.config.load import load_config, parse_settings, parse_value
from s3ray.errors import InputError


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("-2.5e3", -2500.0), (".5e1", 5.0), ("1e5", 100_000), ("3E+2", 300)],
)
def test_a_number_may_be_written_with_an_exponent(text: str, number: float) -> None:
    value = parse_settings([f"x={text}"])["x"]
    assert (value, type(value)) == (number, type(number))


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("-007", -7), ("0_10", 10), ("0", 0), ("0x10", 16)])
def test_a_number_may_begin_with_zeros(text: str, number: int) -> None:
    assert parse_value(text) == number


@pytest.mark.parametrize("text", ["2:1", "-1:30", "10:30:00", "1:30.5"])
def test_a_ratio_or_a_time_is_a_text(text: str) -> None:
    assert parse_value(text) == text


@pytest.mark.parametrize("text", ["'1e-4'", '"1e5"', "e5", "1e", "x1e4", "1e4x"])
def test_what_is_quoted_or_no_number_stays_a_text(text: str) -> None:
    assert parse_value(text) == text.strip("'\"")


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.text(max_size=6), st.from_regex(r"[-+]?[0-9]{1,2}\.?[0-9]{0,2}[eE][-+]?[0-9]{1,2}", fullmatch=True))
)
def test_a_text_that_is_written_is_read_as_the_same_text(text: str) -> None:
    assert parse_value(dump({"x": text})) == {"x": text}


def test_a_key_that_comes_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: one\nstudent:\n  epochs: 9\nseed: 1\nstudent: {epochs: 1}\n")
    with pytest.raises(InputError, match=r"job.yaml: student: comes twice, in lines 2 and 5"):
        load_config(job)
    with pytest.raises(InputError, match=r"c: comes twice, in lines 3 and 4"):
        parse_value("a: 1\nb:\n  - c: 1\n    c: 2\n")
    assert parse_value("- {a: 1}\n- {a: 2}\n") == [{"a": 1}, {"a": 2}]


def test_an_emoji_that_json_spells_in_two_halves_is_one_character() -> None:
    assert parse_value('{"words": "good \\ud83d\\ude00"}') == {"words": "good \U0001f600"}


@pytest.mark.parametrize(("value", "says"), [("yes", "truth values"), ("12", "a number"), ("2026-01-02", "a date")])
def test_a_value_that_yaml_takes_for_no_text_is_to_be_quoted(tmp_path: Path, value: str, says: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"name: {value}\ntask: imdb\n")
    with pytest.raises(InputError, match=f"Quote it.*{says}"):
        load_config(job)
