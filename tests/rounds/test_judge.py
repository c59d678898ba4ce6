"""What enters the dataset: no copy of gold, no row twice; and tables that read back as what they were."""

from dataclasses import replace
from typing import Literal

import pytest

from s3ray.config.job import CurationConfig
from s3ray.rounds.judge import ExampleJudge, NoteJudge
from s3ray.tables import examples_from_table, join_tables, mistakes_from_table, table_from_examples, table_from_mistakes
from s3ray.tasks import Task, load_task
from s3ray.types import (
    Example,
    GenerationRequest,
    Mistake,
    Origin,
    Outcome,
    OutcomeStatus,
    Rejection,
    RejectionReason,
    Source,
    Span,
)
from tests.sources import make_request

REVIEWS = load_task("review_sentences")
QNLI = load_task("qnli")
ANSWERS = load_task("adversarial_qa")


def gold(task: Task, **fields: str) -> Example:
    return task.make_example(fields, {"label": task.labels[0]}, Origin(source=Source.GOLD))


def written(text: str, *probabilities: float) -> Outcome:
    return Outcome(
        request_id="r",
        index=0,
        status=OutcomeStatus.ACCEPTED,
        text=text,
        raw=text,
        label_probabilities=tuple(probabilities),
    )


def label_probabilities(
    judge: ExampleJudge, text: str, request: GenerationRequest | None = None
) -> RejectionReason | None:
    rejection = judge.judge(request or make_request(0), written(text))
    return rejection.reason if rejection else None


@pytest.mark.parametrize(
    "text",
    [
        "The soup was cold and the waiter forgot us twice.",
        "the soup was cold, and the waiter forgot us twice",
        "The soup was cold and the waiter forgot us twice!!",
        "The soup was colt and the waiter forgot us twice.",
    ],
)
def test_copies_of_gold_are_rejected(text: str) -> None:
    kept = gold(REVIEWS, text="The soup was cold and the waiter forgot us twice.")
    examples: list[Example] = []
    judge = ExampleJudge(REVIEWS, [kept], [], CurationConfig(), examples.append)
    assert label_probabilities(judge, text) is RejectionReason.COPY_OF_GOLD
    assert examples == []


def test_copies_of_earlier_rows_are_rejected_by_kind() -> None:
    earlier = replace(gold(REVIEWS, text="A warm and funny film."), origin=Origin(source=Source.SEED))
    examples: list[Example] = []
    judge = ExampleJudge(REVIEWS, [], [earlier], CurationConfig(near_duplicate=0.9), examples.append)
    assert label_probabilities(judge, "A warm and funny film") is RejectionReason.DUPLICATE
    assert label_probabilities(judge, "A warm and funny films") is RejectionReason.NEAR_DUPLICATE
    assert label_probabilities(judge, "The battery died after a week.") is None
    assert label_probabilities(judge, "The battery died after a week.") is RejectionReason.DUPLICATE
    assert [example.fields["text"] for example in examples] == ["The battery died after a week."]


def test_the_same_question_may_be_asked_of_two_sentences_but_no_question_of_gold() -> None:
    known = gold(QNLI, question="Who won?", sentence="Ann won.")
    judge = ExampleJudge(QNLI, [known], [], CurationConfig(), list[Example]().append)
    requests = [
        make_request(0)._replace(label="entailment", context={"sentence": sentence})
        for sentence in ("Rome lies on the Tiber.", "Paris lies on the Seine.")
    ]
    assert [label_probabilities(judge, "Where does it lie?", request) for request in requests] == [None, None]
    assert label_probabilities(judge, "Where does it lie?", requests[0]) is RejectionReason.DUPLICATE
    assert label_probabilities(judge, "Who won?", requests[0]) is RejectionReason.COPY_OF_GOLD


@pytest.mark.parametrize("verify", ["drop", "soft"])
def test_what_the_generator_doubts_is_rejected(verify: Literal["drop", "soft"]) -> None:
    examples: list[Example] = []
    judge = ExampleJudge(REVIEWS, [], [], CurationConfig(verify=verify, verify_least=0.6), examples.append)
    request = make_request(0)  # for a positive sentence
    doubted = judge.judge(request, written("A warm and funny film.", 0.41, 0.59))
    assert doubted == Rejection(
        reason=RejectionReason.DOUBTED, detail="asked for positive, the generator gives negative 0.41, positive 0.59"
    )
    assert judge.judge(request, written("A warm and funny film.", 0.4, 0.6)) is None, "what was doubted copies nothing"
    assert [example.soft for example in examples] == [(0.4, 0.6) if verify == "soft" else ()]
    again = judge.judge(request, written("A warm and funny film.", 0.1, 0.9))
    assert again is not None
    assert again.reason is RejectionReason.DUPLICATE


def test_a_text_without_a_verdict_is_doubted_and_says_why() -> None:
    judge = ExampleJudge(REVIEWS, [], [], CurationConfig(verify="drop"), list[Example]().append)
    refused = written("A warm and funny film.")._replace(detail="not verified: the prompt has 999 tokens")
    for outcome, why in ((refused, "999 tokens"), (written("A warm and funny film."), "not asked")):
        doubted = judge.judge(make_request(0), outcome)
        assert doubted is not None
        assert doubted.reason is RejectionReason.DOUBTED
        assert why in doubted.detail


def test_without_verification_verdicts_do_not_matter() -> None:
    examples: list[Example] = []
    judge = ExampleJudge(REVIEWS, [], [], CurationConfig(), examples.append)
    assert judge.judge(make_request(0), written("A warm and funny film.", 0.9, 0.1)) is None
    assert examples[0].soft == ()


def test_a_question_is_doubted_if_it_hardly_asks_for_its_answer() -> None:
    examples: list[Example] = []
    judge = ExampleJudge(ANSWERS, [], [], CurationConfig(verify="soft"), examples.append)
    context = {"context": "Rome lies on the Tiber."}
    request = make_request(0)._replace(label=None, context=context, answer=Span(text="Rome", start=0))
    doubted = judge.judge(request, written("What lies on it?", 0.25))
    assert doubted is not None
    assert (doubted.reason, "0.25" in doubted.detail) == (RejectionReason.DOUBTED, True)
    assert judge.judge(request, written("What lies on the Tiber?", 0.75)) is None
    assert examples[0].soft == (), "a span has no labels to soften"


def test_rouge_l_finds_copies_of_gold_and_of_earlier_rows() -> None:
    text = "the soup was cold and the waiter forgot us twice on a sunny day in may"
    kept = gold(REVIEWS, text=text)
    swapped = text.replace("sunny", "thunderously overcast")  # 15 words of 16 and 17 stay: 30/33
    for threshold, reason in ((0.9, RejectionReason.COPY_OF_GOLD), (0.91, None)):
        curation = CurationConfig(rouge_l=threshold, near_duplicate=None)
        judge = ExampleJudge(REVIEWS, [kept], [], curation, list[Example]().append)
        assert label_probabilities(judge, swapped) is reason
    judge = ExampleJudge(REVIEWS, [], [kept], CurationConfig(rouge_l=0.9), list[Example]().append)
    assert label_probabilities(judge, swapped) is RejectionReason.NEAR_DUPLICATE


def test_notes_are_kept_once_and_up_to_a_limit_while_keys_take_turns() -> None:
    judge = NoteJudge(REVIEWS, ["negative", "positive"], num_each=3)
    request = make_request(1)
    assert judge.judge(request, written("1. Slow service\n2. Cold food")) is None
    repeated = judge.judge(request, written("1. slow service\n2. cold food"))
    assert repeated is not None
    assert repeated.reason is RejectionReason.DUPLICATE
    assert judge.judge(request, written("1. Cold food\n2. High prices\n3. Loud music")) is None
    assert judge.judge(make_request(2), written("1. Warm food")) is None
    assert judge.notes == {"negative": ["Warm food"], "positive": ["Slow service", "Cold food", "High prices"]}


def test_tables_read_back() -> None:
    labelled = gold(REVIEWS, text="Fine.")
    answers = (Span(text="the Tiber", start=13), Span(text="Tiber", start=17))
    fields = {"question": "Where?", "context": "Rome lies on the Tiber."}
    origin = Origin(source=Source.EXTRAPOLATED, round=2, parent="p")
    spanned = Example(id="s", fields=fields, answers=answers, origin=origin)
    assert examples_from_table(table_from_examples([labelled], ("text",), True), ("text",)) == [labelled]
    softened = replace(labelled, soft=(0.25, 0.75))
    table = table_from_examples([softened, labelled], ("text",), True, has_soft=True)
    assert examples_from_table(table, ("text",)) == [softened, labelled]
    names = ("question", "context")
    assert examples_from_table(table_from_examples([spanned], names, False), names) == [spanned]
    mistake = Mistake(example=spanned, predicted="Rome", confidence=0.25)
    assert mistakes_from_table(table_from_mistakes([mistake], names, False), names) == [mistake]


def test_soft_labels_are_kept_also_beside_rows_without_any() -> None:
    hard, other = (gold(REVIEWS, text=text) for text in ("one", "two"))
    soft = replace(other, soft=(0.25, 0.75))
    tables = [table_from_examples(rows, REVIEWS.fields, True) for rows in ([hard], [hard, soft], [])]
    assert ["soft" in table.column_names for table in tables] == [False, True, False]
    for order in (tables, tables[::-1]):
        rows = examples_from_table(join_tables(order), REVIEWS.fields)
        assert sorted(rows, key=lambda row: row.soft) == [hard, hard, soft]
    assert "soft" in table_from_examples([hard], REVIEWS.fields, True, has_soft=True).column_names
