from collections.abc import Callable
from typing import Any

import pytest

from s3ray.errors import InputError
from s3ray.tasks import NUM_LISTED, Task
from s3ray.types import Example, Origin, Parsed, Prompt, Rejection, RejectionReason, Source, Span
from tests.tasks.samples import gold_example, request_of

Make = Callable[[dict[str, Any]], Task]
Spec = dict[str, Any]


def reason_of(read: Parsed | Rejection) -> RejectionReason:
    assert isinstance(read, Rejection)
    return read.reason


def test_a_completion_prompt_is_the_rendered_text_without_its_last_line_end(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    prompt = task.render(request_of(task, "seed", "sport", reasons=("a ball", "a goal")), "completion")
    title = gold_example(task).fields["title"]
    assert prompt == Prompt(text=f'{title} in Oslo, a ball, a goal (sports news): "', stop=('"',))


def test_a_reasons_prompt_says_how_many_and_all_labels(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    prompt = task.render(request_of(task, "reasons", "money"), "completion")
    assert prompt.text == f"{NUM_LISTED} signs of business news, not of sports news, business news:\n1."


def test_a_question_for_the_label_shows_what_was_written_and_what_was_given(make_task: Make, topics: Spec) -> None:
    topics["labels"].append({"name": "home", "value": 3, "words": "home news", "says": "home"})
    task = make_task(topics)
    request = request_of(task, "seed", "money", context={"title": "Today"})
    prompt = task.render(task.verification(request, "Shares fell."), "completion")
    assert prompt.text == 'Today: Shares fell.\nIs it sports news or business news or home news? It is "'
    assert prompt.choices == ("business news", "sports news", "home")
    assert task.target.label_probabilities(request, (0.7, 0.2, 0.1)) == (0.2, 0.7, 0.1)
    assert task.target.certainty(request, (0.2, 0.7, 0.1)) == 0.7
    assert task.render(request, "completion").choices == ()


def test_a_chat_prompt_has_two_messages(make_task: Make, answers: Spec) -> None:
    task = make_task(answers)
    parent = gold_example(task)
    prompt = task.render(request_of(task, "extrapolate", parent=parent), "chat")
    user = f"{parent.fields['context']} Anna {parent.fields['question']}"
    assert prompt == Prompt(system="Be brief.", user=user)


@pytest.mark.parametrize(
    ("raw", "finish", "reason"),
    [
        ("", "stop", RejectionReason.EMPTY),
        ("", "length", RejectionReason.TRUNCATED),
        ("<think>The match", "stop", RejectionReason.TRUNCATED),
        ("<think>The match was lost.</think>", "stop", RejectionReason.EMPTY),
        ("Label: sports news", "stop", RejectionReason.EMPTY),
        ("?!", "stop", RejectionReason.UNPARSABLE),
        ("The match was cut off in the", "length", RejectionReason.TRUNCATED),
        ("I'm sorry, but I can't assist with that.", "stop", RejectionReason.REFUSAL),
        ("Goal!", "stop", RejectionReason.TOO_SHORT),
        ("one two three four five six seven eight nine", "stop", RejectionReason.TOO_LONG),
    ],
)
def test_what_cannot_be_an_example_is_rejected(
    make_task: Make, topics: Spec, raw: str, finish: str, reason: RejectionReason
) -> None:
    task = make_task(topics)
    assert reason_of(task.read(request_of(task, "seed"), raw, finish, clean=True)) is reason


def test_the_word_limits_belong_to_the_text(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    for text in ("Two words", "one two three four five six seven eight"):
        assert task.read(request_of(task, "seed"), text, "stop", clean=True) == Parsed(text=text)


def test_without_cleaning_a_text_is_taken_as_it_is(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    request = request_of(task, "extrapolate", parent=gold_example(task, written="The match was lost."))
    raw = "Sure! Here is a review that is far too long and was cut off in the"
    assert task.read(request, f" {raw}\n", "length", clean=False) == Parsed(text=raw)
    assert reason_of(task.read(request, " \n", "stop", clean=False)) is RejectionReason.EMPTY
    assert reason_of(task.read(request, "...", "stop", clean=False)) is RejectionReason.UNPARSABLE
    assert reason_of(task.read(request, "the match was lost", "stop", clean=False)) is RejectionReason.COPY_OF_PARENT


def test_thoughts_and_chat_marks_go_even_without_cleaning(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    raw = "<think>Sport.</think>\nSure! Here is one: a goal<|im_end|>"
    assert task.read(request_of(task, "seed"), raw, "stop", clean=False) == Parsed(text="Sure! Here is one: a goal")
    notes = request_of(task, "reasons", "sport")
    listed = task.read(notes, "1. not this\n</think>\n1. a ball\n2. a goal", "stop", clean=True)
    assert listed == Parsed(text="a ball\na goal")
    assert reason_of(task.read(notes, "<think>1. a ball", "length", clean=True)) is RejectionReason.TRUNCATED


def test_refusals_and_prefaces_of_a_language_are_patterns_of_the_task(make_task: Make, topics: Spec) -> None:
    topics["prompts"] |= {"prefaces": ["gerne[^:]{0,40}:"], "refusals": ["ich kann das nicht"]}
    task = make_task(topics)
    seed = request_of(task, "seed")
    written = task.read(seed, "Gerne, ein Text: Das Spiel ging aus.", "stop", clean=True)
    assert written == Parsed(text="Das Spiel ging aus.")
    refused = task.read(seed, "Ich kann das nicht schreiben.", "stop", clean=True)
    assert reason_of(refused) is RejectionReason.REFUSAL
    notes = "Gerne:\n1. ein Ball\n2. ich kann das nicht"
    assert task.read(request_of(task, "reasons", "sport"), notes, "stop", clean=True) == Parsed(text="ein Ball")


@pytest.mark.parametrize(
    ("pattern", "problem"), [("(gerne", "is not a regular expression"), ("a*", "an empty text too")]
)
def test_a_pattern_that_cannot_work_is_refused_when_the_task_is_loaded(
    make_task: Make, topics: Spec, pattern: str, problem: str
) -> None:
    topics["prompts"]["refusals"] = [pattern]
    with pytest.raises(InputError, match=problem) as refusal:
        make_task(topics)
    assert refusal.value.field == "prompts.refusals"


def test_reasons_are_read_one_per_line_and_a_cut_one_is_left_out(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    request = request_of(task, "reasons", "sport")
    raw = " a ball\n2. a goal is scored.\n3. the spectat"
    read = task.read(request, raw, "length", clean=True)
    assert read == Parsed(text="a ball\na goal is scored")
    assert isinstance(read, Parsed)
    assert task.read_notes(read.text) == ("a ball", "a goal is scored")
    assert reason_of(task.read(request, " a ba", "length", clean=True)) is RejectionReason.UNPARSABLE


@pytest.mark.parametrize(
    ("stage", "source"),
    [("seed", Source.SEED), ("extrapolate", Source.EXTRAPOLATED), ("imitate", Source.IMITATED)],
)
def test_an_example_knows_where_it_comes_from(make_task: Make, topics: Spec, stage: str, source: Source) -> None:
    task = make_task(topics)
    parent = gold_example(task, 3) if stage != "seed" else None
    example = task.example(request_of(task, "seed", "money", stage=stage, parent=parent), "Shares fell again.")
    assert example.origin == Origin(source=source, round=1, parent="g3" if parent else None)
    assert (example.label, example.fields["text"]) == ("money", "Shares fell again.")


def test_a_span_example_carries_the_answer_that_was_asked_for(make_task: Make, answers: Spec) -> None:
    task = make_task(answers)
    parent = gold_example(task)
    example = task.example(request_of(task, "extrapolate", parent=parent), "Who won the cup?")
    assert example.answers == parent.answers
    assert example.fields == {"question": "Who won the cup?", "context": parent.fields["context"]}


def test_ids_come_from_content(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    seed, later = request_of(task, "seed", "money"), request_of(task, "seed", "money", round=2, id="other")
    one = task.example(seed, "Shares fell.")
    assert len(one.id) == 16
    assert int(one.id, 16) >= 0
    assert task.example(later, "Shares fell.").id == one.id
    others = {task.example(seed, "Shares rose.").id, task.example(request_of(task, "seed", "sport"), "Shares fell.").id}
    assert len(others | {one.id}) == 3


def labelled(label: str) -> Example:
    return Example(id=label, fields={}, label=label, origin=Origin(source=Source.GOLD))


def test_labels_are_scored_with_accuracy_and_macro_f1(make_task: Make, topics: Spec) -> None:
    task = make_task(topics | {"metric": "macro_f1"})
    score = task.score([labelled("sport"), labelled("money")], ["sport", "sport"])
    assert (score.main, score.num_examples) == ("macro_f1", 2)
    assert score.values["accuracy"] == 0.5
    assert score.value == pytest.approx(1 / 3)
    assert task.is_correct(labelled("sport"), "sport")
    assert not task.is_correct(labelled("sport"), "money")


def test_answers_are_scored_as_in_squad(make_task: Make, answers: Spec) -> None:
    task = make_task(answers)
    references = (Span(text="Denver Broncos", start=0), Span(text="Broncos", start=7))
    example = Example(id="e", fields={}, answers=references, origin=Origin(source=Source.GOLD))
    assert task.is_correct(example, "the broncos")
    assert not task.is_correct(example, "Denver")
    score = task.score([example, example], ["The Broncos", "Denver"])
    assert score.values == {"exact_match": 0.5, "f1": pytest.approx((1 + 2 / 3) / 2)}
    assert score.value == 0.5


def test_a_score_needs_one_prediction_per_example(make_task: Make, topics: Spec) -> None:
    task = make_task(topics)
    with pytest.raises(ValueError, match="0 predictions"):
        task.score([], [])
    with pytest.raises(ValueError, match="2 predictions on 1 examples"):
        task.score([labelled("sport")], ["sport", "sport"])


@pytest.mark.parametrize("name", ["values", "items", "get"])
def test_a_field_may_be_called_as_a_method_of_mappings(make_task: Make, topics: Spec, name: str) -> None:
    topics["fields"] = [name, "text"]
    topics["prompts"] = {"chat": {part: {"user": f"Of {{{{ context.{name} }}}}"} for part in ("seed", "extrapolate")}}
    del topics["attributes"]
    task = make_task(topics)
    assert task.render(request_of(task, "seed", "sport", context={name: "Oslo"}), "chat").user == "Of Oslo"
