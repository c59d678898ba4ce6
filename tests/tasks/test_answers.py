import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3ray.errors import InputError
from s3ray.tasks.answers import find_answer
from s3ray.text import valid_text
from s3ray.types import Span

CONTEXT = "Anna 😀 ate the süße Törte in Linz;\nBert ate nothing in Linz 😀."
PLACE = CONTEXT.index("Linz 😀")


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("context", "start", "why"),
    [
        (CONTEXT, PLACE, ""),
        (CONTEXT, len(CONTEXT[:PLACE].encode("utf-16-le")) // 2, "the offset counts UTF-16 code units"),
        (CONTEXT, len(CONTEXT[:PLACE].encode()), "the offset counts UTF-8 bytes"),
        (CONTEXT, len(nfd(CONTEXT[:PLACE])), "the offset counts decomposed characters (NFD)"),
        (nfd(CONTEXT), len(nfd(CONTEXT[:PLACE])), ""),
        (nfd(CONTEXT), PLACE, "the offset counts composed characters (NFC)"),
        (CONTEXT[:3] + "\0" + CONTEXT[3:], PLACE + 1, ""),
        (CONTEXT.replace("\n", "\r\n"), PLACE, "the offset counts line ends as one character"),
    ],
)
def test_an_offset_that_is_right_in_one_unit_is_moved(context: str, start: int, why: str) -> None:
    span, told = find_answer(context, "Linz", start, "answers")
    valid = valid_text(context)
    assert (span, told) == (Span(text="Linz", start=valid.rindex("Linz")), why)


def test_an_answer_is_made_valid_as_its_context_is() -> None:
    found = find_answer(nfd(CONTEXT), nfd("Törte"), nfd(CONTEXT).index(nfd("Törte")), "answers")
    assert found == (Span(text="Törte", start=20), "")


def test_an_offset_that_is_right_in_two_units_at_different_places_is_refused() -> None:
    with pytest.raises(InputError, match="it stands at 2, 4"):
        find_answer("😀 a a b", "a", 5, "answers")


def test_an_answer_at_one_place_alone_is_moved_there() -> None:
    assert find_answer(CONTEXT, "Törte", 2, "answers") == (Span(text="Törte", start=20), "it stands at one place alone")


@pytest.mark.parametrize("text", [" Törte  in", "Törte\u00a0in", "\nTörte in\t"])
def test_an_answer_with_other_blanks_at_one_place_alone_is_the_context_s(text: str) -> None:
    told = (Span(text="Törte in", start=20), "its blanks are not those of the context")
    assert find_answer(CONTEXT, text, 20, "answers") == told
    assert find_answer(CONTEXT.replace("Törte in", "Törte\n in"), "Törte in", 0, "answers")[0].text == "Törte\n in"


@pytest.mark.parametrize(
    ("text", "start", "says"),
    [
        ("Linz", 2, "it stands at 29, 55. Offsets count characters from 0, not UTF-16 units"),
        ("linz", 29, "with other capitals"),
        ("Graz", 29, "'Linz' there, and the answer nowhere"),
        ("", 3, "the answer nowhere"),
        ("Linz", -1, "it stands at"),
        ("Lin z", 29, "the answer nowhere"),
        (" in Linz\t", 2, "the answer nowhere"),
    ],
)
def test_an_answer_that_could_stand_at_several_places_or_none_is_refused(text: str, start: int, says: str) -> None:
    with pytest.raises(InputError, match="answer is not in its context") as caught:
        find_answer(CONTEXT, text, start, "answers")
    assert says in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab\u0301\u00e9\0\ud83d😀\n"), max_size=8), st.integers(0, 8), st.integers(1, 3))
def test_a_right_answer_stands_in_the_valid_context_afterwards(context: str, start: int, length: int) -> None:
    text = context[start : start + length]
    try:
        span, _ = find_answer(context, text, start, "answers")
    except InputError:
        return
    assert valid_text(context)[span.start : span.start + len(span.text)] == span.text
