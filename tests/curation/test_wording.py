"""What a task's own words add to cleaning: its labels, and prefaces and refusals in its language."""

import pytest

from s3ray.curation.wording import Wording

TEXT = "The pasta was cold."
SENTIMENT = Wording(labels=["negative", "positive"])

SAYS_LABEL = [
    "Label: negative\n\nThe pasta was cold.",
    "**Sentiment:** Negative\n\nThe pasta was cold.",
    "Sentiment: negative. The pasta was cold.",
    "[Label: negative] The pasta was cold.",
    "Overall sentiment: negative\nReview: The pasta was cold.",
    "Sure! Here is a review:\n\n**Label:** Negative\n**Review:** The pasta was cold.",
    "Stimmung: negative\nThe pasta was cold.",
    "Negative: The pasta was cold.",
    "**Negative:** The pasta was cold.",
    "The pasta was cold.\n\nLabel: negative",
    "The pasta was cold.\n**Sentiment**: Negative.",
    "The pasta was cold. (Sentiment: negative)",
    "The pasta was cold. Label: negative",
    "negative\nThe pasta was cold.",
    "**Negative**\n\nThe pasta was cold.",
    "[negative] The pasta was cold.",
    "Negative - The pasta was cold.",
    "The pasta was cold. (negative)",
    "The pasta was cold. -> negative",
    "The pasta was cold. | Negative",
    "The pasta was cold.\nNegative",
    "Text: The pasta was cold. Label: negative",
    "The pasta was cold.\nLabel: negative\nReason: it says so.",
]

TEXTS = [
    "Positive: the staff. Negative: the food.",
    "I expected the label: negative, and so it was.",
    "A negative review: that is what it deserves.",
    "Topic of the day: cold pasta.",
    "Rating: 1 out of 10.",
    "My sentiment: negative thinking never helps.",
    "Not negative at all",
    "Positive - the staff. Negative - the food.",
    "The battery has two poles (positive)",
    "It cannot be more #negative",
    "Negative as ever.\nThe end.",
    "It says: positive thinking.\nI say no.",
]


@pytest.mark.parametrize("raw", SAYS_LABEL)
def test_what_says_the_label_goes(raw: str) -> None:
    assert SENTIMENT.clean(raw) == TEXT
    assert SENTIMENT.clean(TEXT) == TEXT


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_mentions_a_label_stays_as_it_is(text: str) -> None:
    assert SENTIMENT.clean(text) == text


def test_answers_such_as_yes_and_no_count_as_labels_only_after_a_word_for_label() -> None:
    wording = Wording(labels=["yes", "no", "1"])
    assert wording.clean("No: the pasta was cold.\nRecommended: no") == "No: the pasta was cold.\nRecommended: no"
    assert wording.clean("Label: no\nThe pasta was cold.") == TEXT
    assert wording.clean("The pasta was cold.\nClass: 1") == TEXT
    assert wording.clean("[1] The pasta was cold. | 1") == "[1] The pasta was cold. | 1"


@pytest.mark.parametrize(
    "raw", ["标签：负面\n面条很冷。", "负面：面条很冷。", "面条很冷。\n情感：负面", "「面条很冷。」"]
)
def test_labels_and_quotation_marks_are_seen_in_other_scripts_too(raw: str) -> None:
    assert Wording(labels=["负面", "正面"]).clean(raw) == "面条很冷。"


def test_a_text_that_only_says_its_label_is_empty() -> None:
    assert SENTIMENT.clean("Sentiment: negative") == ""


def test_prefaces_and_refusals_of_a_language_are_those_of_the_task() -> None:
    german = Wording(prefaces=["(gerne|klar)[^:]{0,60}:"], refusals=["(es tut mir leid, aber )?ich kann das nicht"])
    assert german.clean('Gerne, hier ist eine Rezension: "Die Nudeln waren kalt."') == "Die Nudeln waren kalt."
    assert german.clean("Die Nudeln, gerne bestellt: kalt.") == "Die Nudeln, gerne bestellt: kalt."
    assert german.is_refusal("Es tut mir leid, aber ich kann das nicht schreiben.")
    assert german.is_refusal("I'm sorry, but I can't assist with that.")
    assert not german.is_refusal("Die Nudeln? Ich kann das nicht empfehlen.")


def test_a_pattern_that_never_ends_fails_its_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3ray.curation.wording._MATCH_S", 0.01)
    with pytest.raises(TimeoutError):
        Wording(refusals=["(a|aa)+(a|aa)+(a|aa)+b"]).is_refusal("a" * 60)
