"""The contract of every task that comes with the package."""

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import GoldConfig
from s3ray.tasks import Task, builtin_names, load_task
from s3ray.tasks.gold import load_gold
from s3ray.tasks.spec import Form, template_parts
from s3ray.types import Parsed, Prompt, Rejection, RejectionReason, Source
from tests.tasks.samples import gold_example, request_of

FORMS: tuple[Form, ...] = ("chat", "completion")
LONG = "The waiter smiled, the soup was hot, the music was quiet and we stayed for three hours without noticing it."


@pytest.fixture(params=builtin_names())
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def spoken(prompt: Prompt) -> str:
    assert (prompt.user is None) != (prompt.text is None)
    return f"{prompt.system}\n{prompt.user or prompt.text}"


def test_the_builtin_tasks_are_those_of_the_paper_and_the_demo() -> None:
    assert builtin_names() == ("adversarial_qa", "imdb", "qnli", "review_sentences", "rte")


@pytest.mark.parametrize("form", FORMS)
def test_every_template_renders_for_every_label(task: Task, form: Form) -> None:
    assert task.has_form(form)
    texts = {}
    for name in dict.fromkeys(name for _, name, _, _ in template_parts(task.spec) if name != "verify"):
        for label in task.labels if task.uses(form, name, "label") else (None,):
            parent = gold_example(task) if name == "extrapolate" else None
            text = spoken(task.render(request_of(task, name, label, parent=parent), form))
            assert "{{" not in text
            assert "{%" not in text
            texts[name, label] = text
    assert len(set(texts.values())) == len(texts), "two templates or labels give the same prompt"


def all_prompts(task: Task) -> Iterator[tuple[str, list[Any]]]:
    """What prompts say where nothing is shown, by form, template, label and number of reasons."""
    for form, name in dict.fromkeys((form, name) for form, name, _, _ in template_parts(task.spec)):
        for label in task.labels or (None,) if name in ("reasons", "seed", "extrapolate") else ():
            for reasons in ((), ("slow", "cold")) if name == "seed" else ((),):
                parent = gold_example(task, 1) if name == "extrapolate" else None
                prompt = task.render(request_of(task, name, label, parent=parent, reasons=reasons), form)
                key = f"{task.name} {form} {name} {label} {len(reasons)}"
                yield key, [prompt.system, prompt.user, prompt.text, list(prompt.stop)]


def test_the_prompts_of_the_faithful_method_are_word_for_word_those_that_were_measured(task: Task) -> None:
    """Prompt wording decides scores, so a change of it is never by the way. A new wording: write the file anew."""
    known = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
    assert dict(all_prompts(task)) == {key: prompt for key, prompt in known.items() if key.split()[0] == task.name}


@pytest.mark.parametrize("form", FORMS)
def test_extrapolate_prompts_say_the_wrong_answer_the_contrast_and_the_pattern(task: Task, form: Form) -> None:
    wrong = task.labels[0] if task.has_labels else "Bob"
    shown = (gold_example(task, 2, written="Nobody came to see the green cup."),) if task.has_labels else ()
    request = request_of(
        task, "extrapolate", parent=gold_example(task, 1), predicted=wrong, pattern="a twist", shown=shown
    )
    text = spoken(task.render(request, form))
    assert task.target.in_words(wrong) in text
    assert "a twist" in text
    assert all(row.fields[name] in text for row in shown for name in task.fields)


@pytest.mark.parametrize("form", FORMS)
def test_seed_prompts_show_rows_and_subjects(task: Task, form: Form) -> None:
    if task.has_labels:
        row = gold_example(task, 0, written="Nobody came to see the green cup.")
        assert "Nobody came to see" in spoken(task.render(request_of(task, "seed", shown=(row,)), form))
    if task.spec.subjects:
        subject = {task.spec.subjects: "the Blue Lagoon", "subject": "the Blue Lagoon"}
        request = request_of(task, "seed")
        text = spoken(task.render(request._replace(attributes={**request.attributes, **subject}), form))
        assert "the Blue Lagoon" in text


@pytest.mark.parametrize("form", FORMS)
def test_notes_are_asked_for_where_they_make_sense(task: Task, form: Form) -> None:
    single_text = {"reasons", "subjects"} if not task.context_fields else set()
    assert task.note_prompts(form) == {"patterns", *single_text}
    shown = (gold_example(task, 0), gold_example(task, 1))
    text = spoken(task.render(request_of(task, "patterns", shown=shown), form))
    assert all(row.fields[task.written] in text for row in shown)


@pytest.mark.parametrize("form", FORMS)
def test_prompts_show_what_is_given(task: Task, form: Form) -> None:
    parent = gold_example(task, number=1)
    seed = spoken(task.render(request_of(task, "seed", parent=None), form))
    extrapolate = spoken(task.render(request_of(task, "extrapolate", parent=parent), form))
    assert parent.fields[task.written] in extrapolate
    for name in task.context_fields:
        assert gold_example(task).fields[name] in seed
        assert parent.fields[name] in extrapolate
    if parent.answers:
        assert parent.answers[0].text in seed


@pytest.mark.parametrize("form", FORMS)
def test_the_question_for_the_label_shows_the_whole_example_and_not_the_label(task: Task, form: Form) -> None:
    assert task.has_verify(form)
    prompts = set()
    for label in task.labels or (None,):
        request = request_of(task, "seed", label)
        asked = task.render(task.verification(request, 'He said "No way", twice.'), form)
        quoted = spoken(asked).replace('"', "'")
        assert "He said 'No way', twice." in quoted
        assert all(request.context[name] in quoted for name in task.context_fields)
        assert len(asked.choices) == max(2, len(task.labels))
        assert asked.choices == task.target.choices(request), "the label that was asked for comes first"
        if not task.has_labels:
            assert "Anna" in quoted
        if form == "completion":
            assert spoken(asked).endswith('"')
            assert spoken(asked).count('"') % 2 == 1, "the answer goes inside a quotation"
        prompts.add(replace(asked, choices=()))
    assert len(prompts) == 1


def test_the_label_that_was_asked_for_is_the_first_choice(task: Task) -> None:
    if not task.has_labels:
        assert task.target.choices(request_of(task, "seed")) == ("yes", "no")
        return
    first = {label: task.target.choices(request_of(task, "seed", label))[0] for label in task.labels}
    assert first == {label.name: label.answer for label in task.spec.labels}


@pytest.mark.parametrize("form", FORMS)
def test_seed_prompts_know_no_gold_text(task: Task, form: Form) -> None:
    parent = gold_example(task, written="Nobody may ever see this.")
    with_parent = spoken(task.render(request_of(task, "seed", parent=parent), form))
    assert "Nobody may ever see this" not in with_parent


@pytest.mark.parametrize("form", FORMS)
def test_reasons_are_shown_in_seed_prompts(task: Task, form: Form) -> None:
    assert ("reasons" in task.note_prompts(form)) == (not task.context_fields)
    if "reasons" in task.note_prompts(form):
        prompt = task.render(request_of(task, "seed", reasons=("a purple horse", "a green cow")), form)
        assert "a purple horse" in spoken(prompt)
        assert "a green cow" in spoken(prompt)


@pytest.mark.parametrize("form", FORMS)
def test_attributes_change_seed_prompts(task: Task, form: Form) -> None:
    last = {name: values[-1] for name, values in task.attributes.items()}
    is_used = any("vary." in text for (f, name, _, text) in template_parts(task.spec) if (f, name) == (form, "seed"))
    usual = spoken(task.render(request_of(task, "seed"), form))
    assert (spoken(task.render(request_of(task, "seed", attributes=last), form)) != usual) == is_used


def test_completion_prompts_end_where_the_model_goes_on(task: Task) -> None:
    for name in ("seed", "extrapolate"):
        prompt = task.render(request_of(task, name, parent=gold_example(task)), "completion")
        assert prompt.text is not None
        assert prompt.text.endswith('"')
        assert '"' in prompt.stop


def test_a_good_answer_becomes_an_example_of_what_was_asked(task: Task) -> None:
    for label in task.labels or (None,):
        parent = gold_example(task)
        request = request_of(task, "extrapolate", label, parent=parent)
        read = task.read(request, f'"{LONG}"', "stop", clean=True)
        assert read == Parsed(text=LONG)
        example = task.example(request, LONG)
        assert example.fields == {**parent.fields, task.written: LONG}
        assert tuple(example.fields) == task.fields
        assert example.label == label
        assert example.answers == parent.answers
        assert (example.origin.source, example.origin.round, example.origin.parent) == (Source.EXTRAPOLATED, 1, "g0")


def test_the_parent_again_is_no_answer(task: Task) -> None:
    parent = gold_example(task, written=LONG)
    read = task.read(request_of(task, "extrapolate", parent=parent), LONG.upper() + "!", "stop", clean=True)
    assert isinstance(read, Rejection)
    assert read.reason is RejectionReason.COPY_OF_PARENT


def test_tasks_pickle(task: Task) -> None:
    again = pickle.loads(pickle.dumps(task))
    assert again.spec == task.spec
    assert again.data == task.data
    assert again.render(request_of(task, "seed"), "chat") == task.render(request_of(task, "seed"), "chat")


def test_the_packaged_data_is_whole() -> None:
    task = load_task("review_sentences")
    gold = load_gold(task, GoldConfig())
    assert (len(gold.extrapolate), len(gold.select), len(gold.test)) == (300, 200, 997)
    assert {example.label for example in gold.test} == {"negative", "positive"}
    assert gold.contexts == ()
    assert task.data is not None
    assert "CC BY 4.0" in (task.data / "LICENSE.md").read_text(encoding="utf-8")
