import json
import re

import pytest

from s3ray.curation.clean import clean_text, is_refusal, read_list
from s3ray.tasks import load_task

WRAPPED = [
    ("Sure! Here is a review:\n\nThe pasta was cold.", "The pasta was cold."),
    ("Sure, here's a negative sentence about a phone: The screen cracked at once.", "The screen cracked at once."),
    ("Certainly!\n\nThe pasta was cold.", "The pasta was cold."),
    ("Here is the question you asked for:\n**Question:** Who won the game?", "Who won the game?"),
    ('"The pasta was cold."', "The pasta was cold."),
    ("“The pasta was cold.”", "The pasta was cold."),
    ("`The pasta was cold.`", "The pasta was cold."),
    ("'It's a film that doesn't end.'", "It's a film that doesn't end."),
    ('Review: "The pasta was cold."', "The pasta was cold."),
    ('"Review: The pasta was cold."', "The pasta was cold."),
    ("**Movie Review:** A dull film.", "A dull film."),
    ("1. The pasta was cold.\n2. The waiter was rude.", "The pasta was cold."),
    ("- The pasta was cold.", "The pasta was cold."),
    ("The pasta was cold.\n\nNote: I kept it short.", "The pasta was cold."),
    ("The pasta was cold.\n\n(Note: this review is negative.)", "The pasta was cold."),
    ("Who won the game?\nAnswer: Denver", "Who won the game?"),
    ("The pasta was cold.\n\nI hope this helps! Let me know if you need more.", "The pasta was cold."),
    ('"The pasta was cold."\n\nThis review expresses a negative opinion.', "The pasta was cold."),
    ('"The pasta was cold." (This sentence is negative.)', "The pasta was cold."),
    ("Sure, here's one: The pasta was cold.", "The pasta was cold."),
    ("Okay! A negative review:\nThe pasta was cold.", "The pasta was cold."),
    ('Sure, as you asked: "The pasta was cold."', "The pasta was cold."),
    ("Here\u2019s a similar example:\n\nThe pasta was cold.", "The pasta was cold."),
    ("**The pasta was cold.**", "The pasta was cold."),
    ("The pasta was **really** cold.", "The pasta was really cold."),
    ("  The  pasta\t was\n\n\ncold. ", "The pasta was\ncold."),
    ('{"review": "The pasta was cold."}', "The pasta was cold."),
    ('```json\n{\n  "text": "The pasta\\nwas cold."\n}\n```', "The pasta\nwas cold."),
    ("The pasta was cold.\n\n---\nWord count: 4", "The pasta was cold."),
    ("The pasta was cold.\n***", "The pasta was cold."),
    ("„Die Nudeln waren kalt.“", "Die Nudeln waren kalt."),
    ("assistant: The pasta was cold.", "The pasta was cold."),
    ("<think>\nCold pasta.\n</think>\n\nThe pasta was cold.", "The pasta was cold."),
    ('Okay.\n</think>\n\nSure! Here is a review:\n\n"The pasta was cold."<|im_end|>', "The pasta was cold."),
    ("```\nThe pasta was cold.\n```", "The pasta was cold."),
    ("```text\nThe pasta was cold.\n```", "The pasta was cold."),
    ("```The pasta was cold.```", "The pasta was cold."),
    ("~~~\nThe pasta was cold.\n~~~", "The pasta was cold."),
    ('{"sentence": "The pasta was cold.", "sentiment": "negative"}', "The pasta was cold."),
    ('{"label": "negative", "new_review": "The pasta was cold.", "reason": "It says that."}', "The pasta was cold."),
    ('["The pasta was cold.", "The waiter was rude."]', "The pasta was cold."),
    ('[{"text": "The pasta was cold.", "id": 1}, {"text": "The waiter was rude.", "id": 2}]', "The pasta was cold."),
    ('{"review_1": "The pasta was cold.", "review_2": "The waiter was rude."}', "The pasta was cold."),
    ('{"text": "The pasta was cold."}\n{"text": "The waiter was rude."}', "The pasta was cold."),
    ("<review>The pasta was cold.</review>", "The pasta was cold."),
    ("Here is the review:\n<movie_review>\nThe pasta was cold.\n</movie_review>", "The pasta was cold."),
    ("<label>negative</label>\n<text>The pasta was cold.</text>", "The pasta was cold."),
    ("<example><text>The pasta was cold.</text><label>negative</label></example>", "The pasta was cold."),
    ("\\boxed{The pasta was cold.}", "The pasta was cold."),
    ("\\boxed{\\text{The pasta was cold.}}", "The pasta was cold."),
    ("# Negative Review\n\nThe pasta was cold.", "The pasta was cold."),
    ("**Review**\n\nThe pasta was cold.", "The pasta was cold."),
    ("Certainly! Below is a review.\n\nThe pasta was cold.", "The pasta was cold."),
    ("Review 1: The pasta was cold.\n\nReview 2: The waiter was rude.", "The pasta was cold."),
    ("The pasta was cold.\n\nReason: it says so.", "The pasta was cold."),
    ("\ufeffThe pasta was cold.\u200b", "The pasta was cold."),
    ("Here is the review:\n```\nThe pasta was cold.\n```\nNote: it is short.", "The pasta was cold."),
    ("**Thinking:** Pasta, then.\n\n**Answer:** The pasta was cold.", "The pasta was cold."),
    ("Option 1: The pasta was cold.\n\nOption 2: The waiter was rude.", "The pasta was cold."),
    ("**Version 1:**\nThe pasta was cold.\n\n**Version 2:**\nThe waiter was rude.", "The pasta was cold."),
    ("Final Answer: The pasta was cold.", "The pasta was cold."),
    ("*The pasta was cold.*", "The pasta was cold."),
    ("_The pasta was cold._", "The pasta was cold."),
    ("The pasta was cold. (Word count: 4)", "The pasta was cold."),
    ("The pasta was cold.\n\n(4 words)", "The pasta was cold."),
]

UNTOUCHED = [
    "I can't recommend this film to anyone.",
    "Rating: 1 out of 10.",
    "Cinematography: The film was shot in an interesting way.",
    '"Casablanca" is a masterpiece.',
    "「七人の侍」より「乱」",
    "„Alien“ ist besser als „Prometheus“",
    '"Alien" is still better than "Prometheus"',
    'He calls it "art", I call it a waste of time.',
    'The 5" screen is too small.',
    "Here is a film that nobody needs.",
    "Sure, the food is good, but the service is not.",
    "2 stars for the cook, none for the waiter.",
    "Note that the battery lasts two hours.",
    "'Tis a pity, but the dogs' home is closed.",
    "Answer me this: who pays 20 dollars for a sandwich?",
    "This review is late, as I only saw the film yesterday.",
    "Good value, works fine - power via USB, car, or wall outlet.",
    "Here's the problem: the plot makes no sense.",
    "Certainly not for kids: it is bloody.",
    "Okay so I went in with low expectations: wrong.",
    "Here is a film that has it all: love, war and a dog.",
    "Absolutely the best scene: the duel.",
    "Here's a movie with one thing going for it: the cast.",
    "Output: weak and noisy.",
    "1/2 out of ****",
    "** from ****",
    "*laughs out loud*",
    "The *really* cold pasta.",
    "_init_ is a name.",
    "Option 1: leave it.",
    "Version 2: the pasta is colder.",
    "It said so (in 4 words).",
    "My thoughts: cold pasta.\nNever again.",
    "What a piece of s**t, I was f**king bored, and so was my a**hole of a dog.",
    "***SPOILERS*** The dog did it.",
    'He said "never, and left. I call this "art" without shame.',
    '{"review": "Cold.", "label": 1}',
    '{"title": "A dull and long film", "body": "Nobody needs to see it."}',
    "[laughs] The pasta was cold.",
    "[1] The pasta was cold.",
    "<b>The pasta</b> was cold.",
    "# A heading of a text\nThe pasta was cold.",
    "Review 1 of 2: cold.\nReview 2 of 2: rude.",
    "{curly}",
    "First.\n---\nSecond.",
    "Use ```make``` and ```make test``` to build.",
    "The docs show:\n```\nmake\n```\nwhich fails.",
    "```\nmake\n```\nThat fails, and so does\n```\nmake test\n```",
    "The model prints </think> and `<|im_end|>`.",
    "First paragraph about the plot.\nSecond paragraph about the actors.",
]

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I cannot write a review of that kind.",
    "Sorry, I can't help you with this request.",
    "I apologize, but I am unable to generate such content.",
    "As an AI language model, I have no opinions about films.",
    "As an AI, I cannot provide a review of this product.",
    "I'm just an AI and have never eaten pasta.",
    "Unfortunately, I cannot comply with this request.",
    "I'm sorry, but I can't generate content that is negative.",
    "I cannot create explicit content.",
    "As an AI, I don't have personal experiences with restaurants.",
    "As a language model, I can't taste food.",
    "As a large language model trained by a company, I do not watch films.",
    "I don't have personal opinions as I am an AI language model.",
    "I'm sorry, but I am not comfortable writing that.",
    "I can\u2019t fulfill that request.",
    "I'm really sorry, but I'm not able to write that.",
    "I'm not able to generate this type of review.",
    "Sorry, I can\u2019t do that.",
    "As a responsible AI, I can't produce this.",
    "I must respectfully decline to write this.",
    "I won't write a fake review.",
    "This request violates our content policy.",
]

OPINIONS = [
    "I can't recommend this film to anyone.",
    "I can't help but love this film.",
    "I'm sorry, but this is the worst pizza in town.",
    "I cannot provide enough praise for the cook.",
    "I can't write this place off yet.",
    "Unfortunately, I will not come back.",
    "As an AI thriller it falls flat.",
    "I am unable to find any fault with it.",
    "I can't create a playlist on this phone.",
    "I could not complete this book, so boring.",
    "I am unable to complete this game because it crashes",
    "I won't write a long review because the film is not worth it.",
    "I cannot continue with this show; it is awful.",
    "I am an AI researcher and this film gets it wrong.",
    "As an AI enthusiast, I enjoyed it.",
    "I can't provide enough information about the plot without giving it away.",
    "I can't do that every day.",
    "I must decline in health before I eat here again.",
    "I won't write much about the fake plants.",
    "This request of mine was ignored.",
]


@pytest.mark.parametrize(("raw", "text"), WRAPPED)
def test_what_surrounds_the_text_goes(raw: str, text: str) -> None:
    assert clean_text(raw) == text


@pytest.mark.parametrize("text", UNTOUCHED)
def test_a_text_that_needs_no_cleaning_stays_as_it_is(text: str) -> None:
    assert clean_text(text) == text


@pytest.mark.parametrize(("raw", "text"), WRAPPED)
def test_cleaning_twice_changes_nothing_more(raw: str, text: str) -> None:
    assert clean_text(clean_text(raw)) == text


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", OPINIONS)
def test_opinions_that_sound_like_refusals_pass(text: str) -> None:
    assert not is_refusal(text)


def gold_texts() -> list[str]:
    folder = load_task("review_sentences").data
    assert folder is not None
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines]


def test_gold_needs_no_cleaning_but_for_list_marks() -> None:
    texts = [" ".join(text.split()) for text in gold_texts()]
    changed = [(text, clean_text(text)) for text in texts if clean_text(text) != text]
    assert len(texts) == 2979
    assert len(changed) == 6
    for text, cleaned in changed:
        assert cleaned == re.sub(r"^(?:[-*]|1\.) ", "", text)


def test_no_gold_text_is_taken_for_a_refusal() -> None:
    assert not [text for text in gold_texts() if is_refusal(text)]


@pytest.mark.parametrize(
    "raw",
    [
        "1. It broke\n2. Rude staff.\n3. It broke",
        "Here are three reasons:\n\n- It broke\n- **Rude staff**",
        "It broke\n2) rude staff\n2) Rude staff\n\nI hope this helps!",
    ],
)
def test_lists_are_read_item_by_item(raw: str) -> None:
    first, second = read_list(raw)
    assert (first, second.lower()) == ("It broke", "rude staff")


def test_items_without_blanks_are_short_too() -> None:
    assert read_list("1. 面条又冷又硬。\n2. 服务员不理人；\n" + "很" * 61) == ("面条又冷又硬", "服务员不理人")


def test_no_list_gives_no_items() -> None:
    assert read_list(" \n ") == ()
    assert read_list("I'm sorry, but I can't assist with that.") == ()
