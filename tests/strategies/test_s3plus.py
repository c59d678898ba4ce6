"""s3plus, switch by switch: with all of them off it asks for what S3 asks for, and each changes what it says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s3ray.config.job import PlusConfig, StrategyConfig
from s3ray.strategies import make_strategy
from s3ray.strategies.base import RoundContext
from s3ray.strategies.s3plus import balanced, clusters, moderately_hard, nearest, persistent, representatives, unit_rows
from s3ray.tasks.gold import Context
from s3ray.types import Example, GenerationRequest, Source
from tests.rounds.test_driver import GOLD
from tests.strategies.given import (
    ADVERSARIAL,
    PLAIN,
    QNLI,
    REVIEWS,
    Run,
    Student,
    context,
    first,
    gold_rows,
    mistakes_of,
    plans,
    probes_of,
)

OFF: dict[str, Any] = {
    "contrast": False,
    "skip_persistent": None,
    "coverage": 0.0,
    "variants": 1,
    "balance": False,
    "clusters": 0,
    "near": False,
}
SIZES: dict[str, Any] = {"seed_examples": 12, "rows": 36, "rounds": 2}


def settings(**plus: Any) -> dict[str, Any]:
    """s3plus with these switches on and no others."""
    return {"name": "s3plus", **SIZES, "plus": PlusConfig(**{**OFF, **plus})}


def requests_of(given: RoundContext, num: int = 60, **plus: Any) -> dict[str, list[GenerationRequest]]:
    """What a later round asks for, by stage."""
    own = settings(**plus)
    return {plan.name: first(plan, num) for plan in plans(own.pop("name"), given, **own)}


@pytest.mark.parametrize("rows", [36, None])
def test_with_every_switch_off_it_is_s3(tmp_path: Path, rows: int | None) -> None:
    sizes = {**SIZES, "rows": rows, "per_mistake": 2}
    s3 = Run(tmp_path / "s3", {"name": "s3", **sizes})
    plus = Run(tmp_path / "plus", {"name": "s3plus", **sizes, "plus": OFF}, **PLAIN)
    for round_ in range(3):
        assert plus.asked(round_) == s3.asked(round_), "requests, with ids and sampling seeds"
        assert plus.kept(round_) == s3.kept(round_)
    assert all(job.probes == {} for job in plus.student.jobs)


@pytest.mark.parametrize("task", [REVIEWS, QNLI, ADVERSARIAL], ids=lambda task: task.name)
@pytest.mark.parametrize("round_", [0, 1, 2])
def test_with_every_switch_off_it_is_s3_on_every_kind_of_task(task: Any, round_: int) -> None:
    (plus,) = plans("s3plus", context(task, round_), **SIZES, plus=PlusConfig(**OFF))
    (s3,) = plans("s3", context(task, round_), **SIZES)
    assert (plus.quota, plus.max_requests, first(plus, 60)) == (s3.quota, s3.max_requests, first(s3, 60))


def test_without_near_it_shares_its_seed_set_with_s3() -> None:
    s3, plus = (make_strategy(StrategyConfig(name=name)) for name in ("s3", "s3plus"))
    without = make_strategy(StrategyConfig(name="s3plus", plus=PlusConfig(near=False)))
    assert s3.seed_settings == without.seed_settings != plus.seed_settings


# -- contrast ----------------------------------------------------------------------------------------------------------


def test_contrast_shows_the_wrong_answer_and_the_nearest_row_that_really_has_that_label() -> None:
    given = context(REVIEWS, 1)
    wrong = {mistake.example.id: mistake.predicted for mistake in given.mistakes.all()}
    probes = probes_of(given.gold)
    place = {id_: number for number, id_ in enumerate(probes.ids)}

    def cosine(one: str, other: str) -> float:
        a, b = probes.features[place[one]], probes.features[place[other]]
        return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))

    asked = requests_of(given, contrast=True)["extrapolate"]
    for request in asked:
        assert request.parent is not None
        assert request.predicted == wrong[request.parent.id]
        (row,) = request.shown
        assert row.label == request.predicted
        assert row.id not in wrong, "the student got it right"
        rivals = [gold for gold in given.gold if gold.label == row.label and gold.id not in wrong]
        assert cosine(request.parent.id, row.id) == max(cosine(request.parent.id, rival.id) for rival in rivals)
        assert request.label == request.parent.label
    without = requests_of(given)["extrapolate"]
    assert [r.parent for r in asked] == [r.parent for r in without], "parents and their order stay"
    assert not {r.id for r in asked} & {r.id for r in without}, "another prompt is another request"


def test_contrast_on_span_tasks_shows_the_wrong_answer_alone() -> None:
    for request in requests_of(context(ADVERSARIAL, 1), contrast=True)["extrapolate"]:
        assert (request.predicted, request.shown) == ("Bob", ())


def test_without_contrast_the_wrong_answer_is_not_shown_whatever_else_is_on() -> None:
    given = context(REVIEWS, 1, notes={"patterns": {"0": ["irony"]}})
    others: dict[str, Any] = {"skip_persistent": 2, "coverage": 0.5, "variants": 2, "balance": True, "clusters": 1}
    asked = requests_of(given, **others)
    assert {request.pattern for request in asked["extrapolate"]} == {"irony"}
    assert all((r.predicted, r.shown) == (None, ()) for stage in asked.values() for r in stage)


# -- skip_persistent ---------------------------------------------------------------------------------------------------


def test_rows_that_students_get_wrong_again_and_again_are_passed_over(tmp_path: Path) -> None:
    stubborn, moving = GOLD.extrapolate[:3], GOLD.extrapolate[3:9]
    student = Student(lambda round_: [*stubborn, *moving[3 * round_ : 3 * round_ + 3]])
    run = Run(
        tmp_path / "run", {**settings(skip_persistent=2), "plus": {**OFF, "skip_persistent": 2}}, student, **PLAIN
    )
    parents = [{request.parent.id for request in run.asked(num) if request.parent} for num in (1, 2)]
    assert parents[0] == {row.id for row in (*stubborn, *moving[:3])}, "once wrong is not persistent"
    assert parents[1] == {row.id for row in moving[3:6]}


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_coverage_imitates_rows_that_the_student_got_right() -> None:
    given = context(REVIEWS, 1)
    wrong = {mistake.example.id for mistake in given.mistakes.all()}
    (extrapolate, imitate) = plans("s3plus", given, **SIZES, plus=PlusConfig(**{**OFF, "coverage": 0.25}))
    assert (extrapolate.name, extrapolate.target, imitate.name, imitate.target) == ("extrapolate", 9, "imitate", 3)
    parents = [request.parent.id for request in first(imitate, 9) if request.parent]
    assert not set(parents) & wrong
    assert len(set(parents)) == 3, "as many rows as there are to write"
    assert all(request.predicted is None for request in first(imitate, 9))


def test_rows_written_for_coverage_are_counted_apart(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {**settings(), "plus": {**OFF, "coverage": 0.5}}, **PLAIN)
    for round_ in (1, 2):
        assert Counter(row.origin.source for row in run.kept(round_)) == {Source.EXTRAPOLATED: 6, Source.IMITATED: 6}
    assert [sorted(job.probes) for job in run.student.jobs] == [["gold"], ["gold"], []]


def test_without_mistakes_coverage_takes_all() -> None:
    found = plans("s3plus", context(REVIEWS, 1, num_mistakes=0), **SIZES, plus=PlusConfig(**{**OFF, "coverage": 0.25}))
    assert [plan.target for plan in found] == [0, 12]


# -- variants ----------------------------------------------------------------------------------------------------------


def test_more_variants_mean_fewer_parents() -> None:
    given = context(REVIEWS, 1, num_mistakes=12)

    def parents(**plus: Any) -> list[str]:
        return [request.parent.id for request in requests_of(given, 12, **plus)["extrapolate"] if request.parent]

    assert list(Counter(parents()).values()) == [1] * 12
    assert list(Counter(parents(variants=3)).values()) == [3] * 4
    assert len(set(parents(variants=3)[:3])) == 1, "a parent's variants follow each other"


# -- balance -----------------------------------------------------------------------------------------------------------


def rows_of(num_negative: int, num_positive: int) -> list[Example]:
    rows = gold_rows(REVIEWS, 2 * max(num_negative, num_positive), Source.SEED)
    return rows[0 : 2 * num_negative : 2] + rows[1 : 2 * num_positive : 2]


def test_balance_gives_the_rows_to_the_label_that_has_fewest() -> None:
    given = context(REVIEWS, 1, synthetic=lambda: rows_of(10, 2))
    (plan,) = plans("s3plus", given, **SIZES, plus=PlusConfig(**{**OFF, "balance": True}))
    assert plan.quota == {"negative": 2, "positive": 10}
    assert Counter(request.label for request in first(plan, 12)) == {"negative": 2, "positive": 10}


def test_balance_passes_over_labels_without_any_parent() -> None:
    gold = gold_rows(REVIEWS, 12)
    given = context(REVIEWS, 1, mistakes=mistakes_of(REVIEWS, gold[0:6:2]), synthetic=lambda: rows_of(6, 2))
    (plan,) = plans("s3plus", given, **SIZES, plus=PlusConfig(**{**OFF, "balance": True}))
    assert plan.quota == {"negative": 12}
    both = plans("s3plus", given, **SIZES, plus=PlusConfig(**{**OFF, "balance": True, "coverage": 0.5}))
    assert [plan.quota for plan in both] == [{"negative": 2, "positive": 0}, {"negative": 2, "positive": 8}]


def test_the_whole_set_ends_balanced_although_mistakes_are_of_one_label(tmp_path: Path) -> None:
    def wrong(round_: int) -> Sequence[Example]:
        negative = [row for row in GOLD.extrapolate if row.label == "negative"]
        positive = [row for row in GOLD.extrapolate if row.label == "positive"]
        return [*negative[:5], *positive[:1]]

    def labels(name: str, strategy: dict[str, Any]) -> Counter[str | None]:
        return Counter(row.label for row in Run(tmp_path / name, strategy, Student(wrong), **PLAIN).student.learned[-1])

    assert labels("balanced", {**settings(), "plus": {**OFF, "balance": True}}) == {"negative": 18, "positive": 18}
    assert labels("s3", {"name": "s3", **SIZES})["negative"] > 24


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_each_cluster_of_mistakes_is_described_first_and_shown_with_its_members(tmp_path: Path) -> None:
    student = Student(lambda round_: GOLD.extrapolate[:16])
    run = Run(tmp_path / "run", {**settings(), "plus": {**OFF, "clusters": 3}}, student, **PLAIN)
    for round_ in (1, 2):
        described = run.asked(round_, "patterns")
        assert {request.stage for request in run.generator.answered if request.round == round_} == {
            "patterns",
            "extrapolate",
        }
        assert len({tuple(row.id for row in request.shown) for request in described}) == 3
        for request in described:
            assert 1 <= len(request.shown) <= 6
            assert {row.id for row in request.shown} <= {row.id for row in GOLD.extrapolate[:16]}
        notes = run.notes(round_, "patterns")
        assert all(1 <= len(phrases) <= 2 for phrases in notes.values())
        patterns = {key: "; ".join(phrases) for key, phrases in notes.items()}
        of_parent: dict[str, set[str]] = {}
        for request in run.asked(round_, "extrapolate"):
            assert request.parent is not None
            of_parent.setdefault(request.parent.id, set()).add(request.pattern)
        assert all(len(found) == 1 for found in of_parent.values())
        assert set.union(*of_parent.values()) <= set(patterns.values())
        for request in described:  # a member that a pattern was made from is shown that pattern
            pattern = patterns[list(notes)[request.index % 3]]
            assert all(of_parent.get(row.id, {pattern}) == {pattern} for row in request.shown)
    assert run.kept(1)[0].origin.source is Source.EXTRAPOLATED


def test_without_a_prompt_for_patterns_mistakes_are_not_described() -> None:
    strategy = make_strategy(StrategyConfig(**settings(clusters=3)))
    assert list(strategy.note_stages(context(REVIEWS, 1, prompts=frozenset()))) == []
    assert {request.pattern for request in requests_of(context(REVIEWS, 1), clusters=3)["extrapolate"]} == {""}


# -- near --------------------------------------------------------------------------------------------------------------

TALES = [
    "the king rode a white horse",
    "a white horse ran from the king",
    "ice cream in summer",
    "summer means ice cream",
]


def test_near_gives_prompts_the_most_similar_other_context_from_the_seed_set_on() -> None:
    contexts = [Context(id=str(number), fields={"sentence": tale}) for number, tale in enumerate(TALES)]
    partner = {TALES[0]: TALES[1], TALES[1]: TALES[0], TALES[2]: TALES[3], TALES[3]: TALES[2]}
    gold = [
        replace(row, fields={**row.fields, "sentence": TALES[number % 4]})
        for number, row in enumerate(gold_rows(QNLI, 12))
    ]
    seeds = requests_of(context(QNLI, 0, contexts=contexts), near=True)["seed"]
    later = requests_of(context(QNLI, 1, contexts=contexts, gold=gold, mistakes=mistakes_of(QNLI, gold[:4])), near=True)
    for request in (*seeds, *later["extrapolate"]):
        assert request.near == {"sentence": partner[request.context["sentence"]]}
    plain = requests_of(context(QNLI, 0, contexts=contexts))["seed"]
    assert {request.near == {} for request in plain} == {True}
    assert [request.context for request in plain] == [request.context for request in seeds]
    assert not {request.id for request in plain} & {request.id for request in seeds}, "another prompt, another request"


def test_a_text_that_must_not_go_with_its_context_is_written_for_the_near_one() -> None:
    contexts = [Context(id=str(number), fields={"sentence": tale}) for number, tale in enumerate(TALES)]
    gold = [
        replace(row, fields={**row.fields, "sentence": TALES[number % 4]})
        for number, row in enumerate(gold_rows(QNLI, 12))
    ]
    given = context(QNLI, 1, contexts=contexts, gold=gold, mistakes=mistakes_of(QNLI, gold[:4]))
    seeds = requests_of(context(QNLI, 0, contexts=contexts), near=True)["seed"]
    for request in (*seeds, *requests_of(given, near=True)["extrapolate"]):
        for form in ("chat", "completion"):
            prompt = QNLI.render(request, form)
            said = prompt.user or prompt.text or ""
            own, near = request.context["sentence"] in said, request.near["sentence"] in said
            assert (own, near) == ((True, False) if request.label == "entailment" else (False, True))
        made = QNLI.example(request, "What is it?")
        assert (made.fields["sentence"], made.label) == (request.context["sentence"], request.label)


def test_where_there_is_no_other_context_there_is_none_near() -> None:
    contexts = [Context(id="0", fields={"sentence": "The King."}), Context(id="1", fields={"sentence": "the king"})]
    assert {len(request.near) for request in requests_of(context(QNLI, 0, contexts=contexts), near=True)["seed"]} == {0}
    assert {len(request.near) for request in requests_of(context(REVIEWS, 0), near=True)["seed"]} == {0}


# -- all at once -------------------------------------------------------------------------------------------------------


def test_all_parts_together_write_as_many_rows_as_s3(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "s3plus", **SIZES}, **PLAIN)
    assert run.rows == [12, 24, 36]
    assert Counter(row.label for row in run.student.learned[-1]) == {"negative": 18, "positive": 18}
    again = Run(tmp_path / "again", {"name": "s3plus", **SIZES}, **PLAIN)
    assert [again.kept(num) for num in range(3)] == [run.kept(num) for num in range(3)]


def test_rows_get_length_1_and_zeros_stay() -> None:
    assert unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float32)) == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))


def test_persistent_rows_are_those_that_so_many_students_in_a_row_got_wrong() -> None:
    history = [{"a", "b"}, {"b", "c"}]
    assert persistent({"a", "b", "c"}, history, 2) == {"b", "c"}
    assert persistent({"a", "b", "c"}, history, 3) == {"b"}
    assert persistent({"a", "b", "c"}, history, 4) == set(), "there were only three students"
    assert persistent({"a"}, [], 2) == set()


def test_nearest_is_by_direction() -> None:
    candidates = unit_rows(np.array([[1, 0], [0, 5], [1, 1]], dtype=np.float32))
    queries = unit_rows(np.array([[9, 1], [1, 2], [0, 0.1]], dtype=np.float32))
    assert nearest(queries, candidates) == [0, 2, 1]


def test_rows_weigh_most_where_the_student_is_in_two_minds() -> None:
    weights = moderately_hard([0.5, 0.75, 0.25, 1.0, 0.0])
    assert weights[:3] == pytest.approx([1.0, 0.5, 0.5])
    assert (weights[3:] > 0).all()
    assert (weights[3:] < 0.001).all()


def groups_of_points(*centres: tuple[float, float]) -> np.ndarray:
    """Ten points near each centre."""
    draw = np.random.default_rng(3)
    near = [np.array(centre) + draw.normal(scale=0.02, size=(10, 2)) for centre in centres]
    return unit_rows(np.concatenate(near).astype(np.float32))


def test_representatives_cover_every_group_before_any_twice() -> None:
    points = groups_of_points((1, 0), (0, 1), (-1, 0))
    chosen = representatives(points, np.ones(30), 3)
    assert {place // 10 for place in chosen} == {0, 1, 2}
    assert len(set(representatives(points, np.ones(30), 7))) == 7
    assert sorted(representatives(points, np.ones(30), 99)) == list(range(30))
    assert representatives(points, np.ones(30), 0) == []


def test_representatives_are_hard_rows_of_their_group() -> None:
    points = groups_of_points((1, 0), (0, 1))
    hard = {4, 15}
    weights = np.array([1.0 if place in hard else 0.05 for place in range(20)])
    assert set(representatives(points, weights, 2)) == hard


def test_clusters_are_the_groups_most_typical_rows_first_and_the_same_every_time() -> None:
    points = groups_of_points((1, 0), (0, 1), (-1, 0))
    found = clusters(points, 3, seed=5)
    assert [{place // 10 for place in group} for group in found] == [{0}, {1}, {2}]
    for group in found:
        centre = points[group].mean(axis=0)
        distances = [float(np.linalg.norm(points[place] - centre)) for place in group]
        assert distances == sorted(distances)
    assert found == clusters(points, 3, seed=5)


def test_there_are_no_more_clusters_than_different_rows() -> None:
    points = unit_rows(np.array([[1, 0]] * 5 + [[0, 1]] * 2, dtype=np.float32))
    assert clusters(points, 4, seed=0) == [[0, 1, 2, 3, 4], [5, 6]]
    assert clusters(points[:0], 4, seed=0) == []


def test_new_rows_go_to_the_labels_that_have_fewest() -> None:
    assert balanced({"a": 10, "b": 4}, 8) == {"a": 1, "b": 7}
    assert balanced({"a": 10, "b": 4}, 3) == {"a": 0, "b": 3}
    assert balanced({"a": 5, "b": 5, "c": 5}, 7) == {"a": 3, "b": 2, "c": 2}
    assert balanced({}, 7) == {}


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_balance_is_of_the_whole_set_however_many_rounds(rounds: int) -> None:
    total = Counter({"a": 40, "b": 30, "c": 3})
    for _ in range(rounds):
        total.update(balanced(total, 60 // rounds))
    assert max(total.values()) - min(total.values()) <= 13, total
