"""Texts from outside are made valid, and change in nothing else; words are the same in every script."""

import re
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from s3ray.curation.duplicates import DuplicateIndex
from s3ray.text import has_word, normalise, num_words, units_of, valid_text, words_of


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


def test_normal_form_folds_case_punctuation_space_and_unicode_forms() -> None:
    assert normalise("  The\u00a0PASTA — was, cold!! ") == normalise("the pasta was cold")
    assert normalise("ﬁne") == "fine"
    assert normalise("?!…") == ""
    assert normalise("good") != normalise("food")


LATIN = st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]) | st.sampled_from("–—‘’“”…•€")


@given(st.text(LATIN, max_size=80))
def test_latin_texts_have_the_normal_form_that_they_always_had(text: str) -> None:
    folded = unicodedata.normalize("NFKC", text).casefold()
    assume(not any(map(unicodedata.combining, folded)))
    assert normalise(text) == re.sub(r"[\W_]+", " ", folded).strip()


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("अच्छा था!", "अच्छा था"),
        ("مُحَمَّد، قال", "مُحَمَّد قال"),
        ("شَاهَدْتُ_الفيلم", "شَاهَدْتُ الفيلم"),
        ("ข้าวผัด อร่อย", "ข้าวผัด อร่อย"),
        ("u\u0308bel x\u0304y", "übel x\u0304y"),
        ("می\u200cخواهم", "میخواهم"),
        ("क्\u200dष", "क्ष"),
        ("这家店很好,下次再来。", "这家店很好 下次再来"),
        ("great👍🏽!", "great 👍🏽"),
        ("❤\ufe0f❤", "❤ ❤"),
        ("👩\u200d👩\u200d👧 🇩🇪🇫🇷", "👩\u200d👩\u200d👧 🇩🇪 🇫🇷"),
        ("★★☆", "★ ★ ☆"),
        ("20 °C ©", "20 c"),
        ("It\u00b4s ─── \ufffd \u2800", "it s"),
    ],
)
def test_marks_belong_to_words_and_symbols_are_words(text: str, normal: str) -> None:
    assert normalise(text) == normal
    assert has_word(text)


@pytest.mark.parametrize(("one", "other"), [("👍", "👎"), ("अच्छा था", "अच्छी थी"), ("👍🏽", "👍🏿"), ("★☆☆", "★★★")])
def test_texts_that_differ_in_marks_or_symbols_are_no_copies(one: str, other: str) -> None:
    index = DuplicateIndex(0.95, 0.95)
    index.add("one", one)
    assert index.find(other) is None
    assert index.find(one) is not None


@pytest.mark.parametrize("text", ["", "...", "───", "\ufffd\ufffd", "\u0301", "_-_"])
def test_a_text_without_letter_number_or_symbol_has_no_word(text: str) -> None:
    assert not has_word(text)
    assert normalise(text) == ""


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("The pasta - cold, again.", 5),
        ("अच्छा था", 2),
        ("这家店很好,下次再来。", 9),
        ("我买了iPhone15,很好", 6),
        ("コーヒー を 飲む", 7),
        ("ข้าวผัด", 5),
        ("한국어 텍스트", 2),
        ("好 !", 2),
        ("👍👍 👎", 2),
    ],
)
def test_characters_are_counted_where_a_script_has_no_blanks(text: str, num: int) -> None:
    assert num_words(text) == num


def test_rouge_l_compares_characters_where_a_script_has_no_blanks() -> None:
    index = DuplicateIndex(None, 0.8)
    index.add("a", "这家店的面条又冷又硬服务员也不理人")
    assert index.find("这家店的面条又冷又硬,服务员都不理人") is not None
    assert index.find("屏幕第二天就碎了客服一直没有回复我") is None
    assert units_of(normalise("iPhone很好 ok")) == ["iphone", "很", "好", "ok"]


def test_words_stand_as_in_the_text_without_its_punctuation() -> None:
    assert words_of("snake_case, नकारात्मक (★★★) good👍") == ["snake", "case", "नकारात्मक", "★★★", "good👍"]
    assert words_of("don't know, l'énergie, 'quoted' and 5'2") == [
        "don't",
        "know",
        "l'énergie",
        "quoted",
        "and",
        "5",
        "2",
    ]


@given(st.text(max_size=60))
def test_a_normal_form_is_words_between_single_blanks(text: str) -> None:
    normal = normalise(text)
    assert normal == " ".join(normal.split())
    assert (normal != "") == has_word(text)
    assert "".join(units_of(normal)) == normal.replace(" ", "")
