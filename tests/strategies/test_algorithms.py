"""Algorithms 1 to 3 of the paper (arXiv 2310.13671), step by step through the driver."""

from collections import Counter

import pytest

from s3ray.types import Source
from tests.rounds.test_driver import GOLD
from tests.strategies.given import Run, read

ROUNDS = 2
SEEDS = 12
K = 4
k = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    strategy = {"name": "s3", "rounds": ROUNDS, "seed_examples": SEEDS, "reasons_per_label": K, "reasons_per_prompt": k}
    return Run(tmp_path_factory.mktemp("s3") / "run", strategy)


# -- Algorithm 1: the seed set with rationales -------------------------------------------------------------------------


def test_reasons_behind_each_label_are_asked_for_once_before_any_example(run: Run) -> None:
    asked = [(request.round, request.stage) for request in run.generator.answered]
    assert asked.index((0, "seed")) > max(place for place, stage in enumerate(asked) if stage == (0, "reasons"))
    assert {round_ for round_, stage in asked if stage == "reasons"} == {0}
    assert {request.label for request in run.asked(0, "reasons")} == {"negative", "positive"}
    assert {label: len(kept) for label, kept in run.notes(0, "reasons").items()} == {"negative": K, "positive": K}


def test_each_seed_prompt_has_k_different_reasons_of_its_label_and_no_gold(run: Run) -> None:
    reasons = run.notes(0, "reasons")
    for request in run.asked(0, "seed"):
        assert request.label is not None
        assert len(set(request.reasons)) == k
        assert set(request.reasons) <= set(reasons[request.label])
        assert request.parent is None
        assert request.shown == ()


def test_every_seed_row_has_the_label_that_was_asked_for_and_labels_are_even(run: Run) -> None:
    wanted = {request.label for request in run.asked(0, "seed")}
    rows = run.kept(0)
    assert Counter(row.label for row in rows) == dict.fromkeys(wanted, SEEDS // 2)
    assert {row.origin.source for row in rows} == {Source.SEED}


# -- Algorithm 2: error extrapolation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("round_", range(1, ROUNDS + 1))
def test_each_mistake_on_gold_gives_one_example_with_its_label(run: Run, round_: int) -> None:
    mistakes = {row.id: row for row in read(str(run.store.path(f"students/{round_ - 1}/mistakes.parquet")))}
    assert set(mistakes) <= {row.id for row in GOLD.extrapolate}
    asked, added = run.asked(round_), run.kept(round_)
    assert sorted(request.parent.id for request in asked if request.parent) == sorted(mistakes)
    assert sorted(row.origin.parent or "" for row in added) == sorted(mistakes)
    assert all(row.label == mistakes[row.origin.parent or ""].label for row in added)
    assert {row.origin.source for row in added} == {Source.EXTRAPOLATED}


@pytest.mark.parametrize("round_", range(1, ROUNDS + 1))
def test_the_wrong_answer_is_not_shown_nor_any_other_row(run: Run, round_: int) -> None:
    assert all((r.predicted, r.pattern, r.shown) == (None, "", ()) for r in run.asked(round_))


# -- Algorithm 3: the rounds -------------------------------------------------------------------------------------------


def test_r_rounds_make_r_plus_1_students_on_the_seed_set_and_all_additions_so_far(run: Run) -> None:
    assert [job.round for job in run.student.jobs] == list(range(ROUNDS + 1))
    written = [[row.id for row in run.kept(num)] for num in range(ROUNDS + 1)]
    for round_, learned in enumerate(run.student.learned):
        assert [row.id for row in learned] == [id_ for ids in written[: round_ + 1] for id_ in ids]
    assert run.rows == [SEEDS, SEEDS + 4, SEEDS + 4 + 3]


def test_every_student_starts_afresh(run: Run) -> None:
    """A job names nothing that an earlier student left; all have one seed and each a place of its own."""
    for job in run.student.jobs:
        read_from = [job.train_path, job.select_path, job.mine_path or "", job.test_path or "", *job.probes.values()]
        assert not [path for path in read_from if "/students/" in path]
        assert job.output.endswith(f"students/{job.round}")
    assert len({job.seed for job in run.student.jobs}) == 1
    assert all(job.checker is None for job in run.student.jobs)


def test_gold_is_never_trained_on_and_the_test_part_is_read_once_at_the_end(run: Run) -> None:
    gold = {row.id for part in (GOLD.extrapolate, GOLD.select, GOLD.test) for row in part}
    assert not any(row.id in gold or row.origin.source is Source.GOLD for rows in run.student.learned for row in rows)
    assert [job.test_path is not None for job in run.student.jobs] == [False] * ROUNDS + [True]


def test_mistakes_are_mined_on_the_extrapolation_part_alone(run: Run) -> None:
    for job in run.student.jobs:
        assert [row.id for row in read(job.mine_path or "")] == [row.id for row in GOLD.extrapolate]
        assert [row.id for row in read(job.select_path)] == [row.id for row in GOLD.select]
