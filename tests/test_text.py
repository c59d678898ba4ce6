"""Texts from outside are made valid, and change in nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3ray.text import valid_text


@given(st.text(st.characters(exclude_categories=[])))
def test_what_passed_can_be_written_and_passes_unchanged(text: str) -> None:
    valid = valid_text(text)
    valid.encode()
    assert "\0" not in valid
    assert valid_text(valid) == valid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("half an emoji \ud83d", "half an emoji \ufffd"),
        ("two halves \ud83d\ude00", "two halves \U0001f600"),
        ("decomposed u\u0308", "decomposed \u00fc"),
        ("a\0b", "ab"),
        ("u\0\u0308", "\u00fc"),
        ("नकारात्मक 👍🏽 مُحَمَّد", "नकारात्मक 👍🏽 مُحَمَّد"),
    ],
)
def test_what_no_file_can_hold_is_replaced(text: str, expected: str) -> None:
    assert valid_text(text) == expected
