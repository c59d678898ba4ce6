from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s3ray.errors import InputError
from s3ray.tasks import Task, load_task

Make = Callable[[dict[str, Any]], Task]
Spec = dict[str, Any]


def refusal(make: Make, spec: Spec) -> InputError:
    with pytest.raises(InputError) as caught:
        make(spec)
    assert str(caught.value.where).endswith("task.yaml")
    return caught.value


def test_defaults_follow_the_kind(make_task: Make, topics: Spec, answers: Spec) -> None:
    topic_task, answer_task = make_task(topics), make_task(answers)
    assert (topic_task.metric, answer_task.metric) == ("accuracy", "exact_match")
    assert (topic_task.labels, answer_task.labels) == (("sport", "money"), ())
    assert (topic_task.written, topic_task.context_fields) == ("text", ("title",))
    assert (topic_task.has_form("completion"), topic_task.has_form("chat")) == (True, False)
    assert topic_task.note_prompts("completion") == {"reasons"}
    assert not answer_task.note_prompts("chat")
    assert (topic_task.has_labels, answer_task.has_labels) == (True, False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"writes": "body"}, ["'body'", "title, text"]),
        ({"fields": ["text", "text"]}, ["text, text"]),
        ({"columns": {"txet": "body"}}, ["'txet'", "title, text"]),
        ({"labels": []}, ["two labels"]),
        ({"labels": [{"name": "a", "value": 0, "words": "x"}]}, ["two labels", "1"]),
        ({"metric": "exact_match"}, ["exact_match", "accuracy"]),
        ({"prompts": {}}, ["prompts.chat", "prompts.completion"]),
        ({"limits": {"min_words": 9, "max_words": 3}}, ["max_words", "3", "9"]),
        ({"attributes": {"place": []}}, ["place"]),
        ({"subjects": "plaice"}, ["'plaice'", "attributes are place"]),
        ({"subjects": "place", "attributes": {"place": ["Oslo"], "subject": ["x"]}}, ["'subject'"]),
        ({"kind": "span"}, ["question, context"]),
        ({"name": "My Task"}, ["pattern"]),
    ],
)
def test_what_does_not_fit_together_is_refused(make_task: Make, topics: Spec, change: Spec, words: list[str]) -> None:
    problem = str(refusal(make_task, topics | change))
    for word in words:
        assert word in problem


@pytest.mark.parametrize("name", ["id", "label", "answers", "source", "round", "parent", "predicted", "confidence"])
def test_a_field_may_not_be_called_like_a_column_of_the_tables(make_task: Make, topics: Spec, name: str) -> None:
    problem = str(refusal(make_task, topics | {"fields": [name, "text"]}))
    assert f"field {name!r}" in problem
    assert "`columns`" in problem


def test_what_labels_answer_is_told_apart_by_its_first_word_where_it_is_asked(make_task: Make, topics: Spec) -> None:
    topics["labels"][0]["words"], topics["labels"][1]["words"] = "The news of sport", "the news of business"
    assert "same first word, 'the'" in str(refusal(make_task, topics))
    topics["labels"][0]["says"] = "sport"
    assert [label.answer for label in make_task(topics).spec.labels] == ["sport", "the news of business"]
    del topics["labels"][0]["says"], topics["prompts"]["completion"]["verify"]
    assert not make_task(topics).has_verify("completion")
    topics["labels"][0]["says"] = topics["labels"][1]["says"] = "news"
    assert "share the answer (`says`) 'news'" in str(refusal(make_task, topics))


@pytest.mark.parametrize("same", ["name", "value", "words"])
def test_labels_are_told_apart(make_task: Make, topics: Spec, same: str) -> None:
    topics["labels"][1][same] = topics["labels"][0][same]
    error = refusal(make_task, topics)
    assert f"share the {same}" in str(error)
    assert repr(str(topics["labels"][0][same])) in str(error)


def test_a_label_needs_words(make_task: Make, topics: Spec) -> None:
    del topics["labels"][1]["words"]
    error = refusal(make_task, topics)
    assert (error.field, error.problem) == ("labels.1.words", "is missing")


def test_a_span_task_has_no_labels_and_writes_the_question(make_task: Make, topics: Spec, answers: Spec) -> None:
    assert "no labels" in str(refusal(make_task, answers | {"labels": topics["labels"]}))
    assert "writes the question" in str(refusal(make_task, answers | {"writes": "context"}))


def test_an_unknown_field_is_refused(make_task: Make, topics: Spec) -> None:
    error = refusal(make_task, topics | {"lables": topics["labels"]})
    assert (error.field, error.hint) == ("lables", "Did you mean `labels`?")


def completion(spec: Spec, stage: str, text: str) -> Spec:
    spec["prompts"]["completion"][stage] = {"text": text}
    return spec


def test_a_syntax_error_in_a_template_names_the_line(make_task: Make, topics: Spec) -> None:
    error = refusal(make_task, completion(topics, "seed", "one\n{% if label %}\n{{ label }"))
    assert error.field == "prompts.completion.seed.text"
    assert "line 3" in error.problem
    assert error.value == "{{ label }"


@pytest.mark.parametrize(
    ("stage", "name", "near"),
    [
        ("seed", "lable", "`label`"),
        ("seed", "context.titel", "`context.title`"),
        ("seed", "context['text']", "context.text"),
        ("seed", "vary.palce", "`vary.place`"),
        ("seed", "parent.text", "parent.text"),
        ("seed", "answer", "answer"),
        ("extrapolate", "parent.txt", "`parent.text`"),
        ("extrapolate", "reasons", "reasons"),
        ("extrapolate", "predictd", "`predicted`"),
        ("seed", "pattern", "pattern"),
        ("seed", "vary.subject", "vary.subject"),
        ("reasons", "context.title", "context.title"),
        ("reasons", "num_reason", "`num_reasons`"),
        ("verify", "fields.txt", "`fields.text`"),
        ("verify", "label", "labels"),
        ("verify", "context.title", "fields.title"),
        ("seed", "fields.text", "context.title"),
    ],
)
def test_a_template_may_use_known_names_only(make_task: Make, topics: Spec, stage: str, name: str, near: str) -> None:
    error = refusal(make_task, completion(topics, stage, "{{ " + name + " }}"))
    assert error.field == f"prompts.completion.{stage}.text"
    assert near in f"{error.value} {error.hint}"
    assert "label" in error.hint


def test_a_prompt_for_subjects_needs_an_attribute_whose_place_they_take(make_task: Make, topics: Spec) -> None:
    with_prompt = completion(topics, "subjects", "{{ num_subjects }} cities like {{ vary.place }}:")
    assert "whose place" in str(refusal(make_task, with_prompt))
    assert "subjects" in make_task(with_prompt | {"subjects": "place"}).note_prompts("completion")


def test_rows_that_are_shown_have_the_fields_of_the_task(make_task: Make, topics: Spec) -> None:
    wrong = completion(topics, "seed", "{% for row in shown %}{{ row.txt }}{% endfor %}")
    assert refusal(make_task, wrong).field == "prompts.completion.seed"
    right = completion(topics, "seed", "{% for row in shown %}{{ row.title }} {{ row.label }}{% endfor %}")
    assert make_task(right).uses("completion", "seed", "shown")


def test_every_label_must_be_renderable(make_task: Make, topics: Spec) -> None:
    error = refusal(make_task, completion(topics, "seed", '{{ {"sports news": "ball"}[label] }}'))
    assert error.field == "prompts.completion.seed"
    assert error.value == "label money"


def test_templates_run_in_a_sandbox(make_task: Make, topics: Spec) -> None:
    error = refusal(make_task, completion(topics, "seed", "{{ label.__class__.__mro__ }}"))
    assert error.field == "prompts.completion.seed"


def test_a_file_that_is_not_there_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_task(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [", encoding="utf-8")
    with pytest.raises(InputError, match="not valid YAML"):
        load_task(str(broken))


def test_an_unknown_builtin_task_gets_the_nearest_name() -> None:
    with pytest.raises(InputError) as caught:
        load_task("review_sentence")
    assert "Did you mean review_sentences?" in caught.value.hint
    assert "imdb" in caught.value.hint
