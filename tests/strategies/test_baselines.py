"""The other rows of the paper's tables, each by its definition, through the driver."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s3ray.strategies.progen import NUM_SHOWN, POOL_SIZE
from s3ray.types import GenerationRequest, Outcome, Source
from tests.rounds.test_driver import GOLD, Interrupted, ScriptedGenerator, drive
from tests.strategies.given import PLAIN, Run, Student, job, read

EQUAL: dict[str, Any] = {"rows": 30, "seed_examples": 12, "rounds": 2}


def ids(rows: Any) -> list[str]:
    return [row.id for row in rows]


@pytest.mark.parametrize("name", ["zerogen", "goldgen", "progen", "s3", "transfer", "s3plus"])
def test_the_last_student_of_each_has_equal_rows(tmp_path: Path, name: str) -> None:
    assert Run(tmp_path / "run", {"name": name, **EQUAL}, **PLAIN).rows[-1] == 30


def test_zerogen_writes_subjects_first_then_rows_about_them_from_labels_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "zerogen", "rows": 20})
    subjects = run.notes(0, "subjects")[""]
    assert subjects
    assert {request.stage for request in run.asked(0)} == {"subjects", "seed"}
    for request in run.asked(0, "seed"):
        assert request.attributes["topic"] == request.attributes["subject"]
        assert request.attributes["topic"] in subjects
        assert (request.reasons, request.parent) == ((), None)
    assert len({request.attributes["topic"] for request in run.asked(0, "seed")}) > 5
    assert run.rows == [20]
    assert Counter(row.label for row in run.kept(0)) == {"negative": 10, "positive": 10}


def test_zerogen_in_one_stage_draws_attributes_of_the_task(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "zerogen", "rows": 10, "two_stage": False})
    assert {request.stage for request in run.asked(0)} == {"seed"}
    assert all("subject" not in request.attributes for request in run.asked(0))


def test_goldgen_imitates_gold_whether_or_not_the_student_errs(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "goldgen", "rows": 32, "seed_examples": 12})
    assert Counter(row.origin.source for row in run.kept(0)) == {Source.SEED: 12, Source.IMITATED: 20}
    parents = {row.origin.parent for row in run.kept(0)} - {None}
    assert parents == {row.id for row in GOLD.extrapolate}, "each gold row has its turn"
    assert len(run.student.jobs) == 1


def test_gold_trains_on_the_extrapolation_part_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "gold"})
    assert run.generator.answered == []
    assert ids(run.student.learned[0]) == ids(GOLD.extrapolate)


def test_gold_joins_what_is_written_where_a_job_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "s3", "rounds": 1, "seed_examples": 12, "train_on_gold": True})
    assert run.rows == [20 + 12, 20 + 12 + 4]
    assert ids(run.student.learned[1]) == ids(GOLD.extrapolate) + ids(run.kept(0)) + ids(run.kept(1))


def test_seed_only_is_s3_without_rounds(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "s3", "rounds": 0, "seed_examples": 30})
    assert run.rows == [30]
    assert {request.stage for request in run.asked(0)} == {"reasons", "seed"}
    assert run.student.jobs[0].test_path


def test_without_rationales_no_reason_is_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "s3", "rounds": 0, "seed_examples": 30, "rationales": False})
    assert {request.stage for request in run.asked(0)} == {"seed"}
    assert all(request.reasons == () for request in run.asked(0))


def test_s3_on_a_zerogen_seed_extrapolates_its_own_mistakes(tmp_path: Path) -> None:
    both = {"two_stage": True, "rationales": False, "seed_examples": 12}
    run = Run(tmp_path / "run", {"name": "s3", "rounds": 1, **both})
    zerogen = Run(tmp_path / "zerogen", {"name": "zerogen", "rows": 12})
    assert ids(run.kept(0)) == ids(zerogen.kept(0)), "the seed set is ZeroGen's"
    assert run.rows == [12, 16]
    assert {row.origin.source for row in run.kept(1)} == {Source.EXTRAPOLATED}


def test_transfer_gives_s3s_additions_to_another_seed_set(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "transfer", **EQUAL})
    s3 = Run(tmp_path / "s3", {"name": "s3", **EQUAL})
    assert [ids(run.kept(num)) for num in range(3)] == [ids(s3.kept(num)) for num in range(3)]
    assert ids(run.student.learned[2]) == ids(s3.student.learned[2]), "up to then it is S3"
    others = run.kept(3)
    assert {request.stage for request in run.asked(3)} == {"subjects", "seed"}
    assert all(request.reasons == () for request in run.asked(3))
    assert len(others) == 12
    assert ids(run.student.learned[3]) == ids(run.kept(1)) + ids(run.kept(2)) + ids(others)
    assert not set(ids(run.student.learned[3])) & set(ids(run.kept(0))), "nothing of S3's seed set"
    assert [job.test_path is not None for job in run.student.jobs] == [False, False, False, True]


class Forgetful(ScriptedGenerator):
    """Writes the same seed examples in every round."""

    def _outcome(self, request: GenerationRequest) -> Outcome:
        return super()._outcome(request._replace(seed=request.index) if request.stage == "seed" else request)


def test_what_is_written_for_transfers_other_seed_set_may_equal_a_row_of_s3s(tmp_path: Path) -> None:
    """The last student does not learn S3's seed set, so a copy of it is no copy."""
    store, _, _ = drive(job({"name": "transfer", **EQUAL}), tmp_path / "run", Forgetful(), Student())
    texts = [[row.fields["text"] for row in read(str(store.path(f"rounds/{num}/accepted.parquet")))] for num in (0, 3)]
    assert texts[0] == texts[1]


def test_llm2llm_begins_with_gold_and_shows_the_wrong_answer(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "llm2llm", "rows": 11, "rounds": 2})
    assert run.kept(0) == []
    assert ids(run.student.learned[0]) == ids(GOLD.extrapolate)
    assert run.rows == [20, 20 + 6, 20 + 11]
    for round_ in (1, 2):
        for request in run.asked(round_):
            assert request.parent is not None
            assert request.parent.id in ids(GOLD.extrapolate), "never from written rows"
            assert request.predicted == {"negative": "positive", "positive": "negative"}[request.parent.label or ""]
    assert ids(run.student.learned[2]) == ids(GOLD.extrapolate) + ids(run.kept(1)) + ids(run.kept(2))


def test_progen_shows_the_best_rows_in_half_of_the_later_prompts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", {"name": "progen", "rows": 240, "seed_examples": 120, "rounds": 2}, Student())
    assert run.rows == [120, 180, 240]
    assert all(request.shown == () for request in run.asked(0))
    assert {request.stage for num in range(3) for request in run.asked(num)} == {"seed"}
    for round_ in (1, 2):
        asked = run.asked(round_)
        with_rows = [request for request in asked if request.shown]
        assert abs(len(with_rows) - len(asked) / 2) <= 2
        written = set(ids(run.student.learned[round_ - 1]))
        for request in with_rows:
            assert len(set(ids(request.shown))) == NUM_SHOWN
            assert {row.label for row in request.shown} == {request.label}
            assert set(ids(request.shown)) <= written
        for label in ("negative", "positive"):
            pool = {row.id for request in with_rows if request.label == label for row in request.shown}
            assert len(pool) <= POOL_SIZE
    assert all(request.reasons == () for num in range(3) for request in run.asked(num))


@pytest.mark.parametrize("die_after", [5, 30, 60, 90])
@pytest.mark.parametrize("name", ["zerogen", "progen", "transfer", "llm2llm", "s3plus"])
def test_a_run_that_was_killed_anywhere_ends_the_same(tmp_path: Path, name: str, die_after: int) -> None:
    """Notes are asked for once, and what follows from them, from rows and from probes is chosen as before."""
    settings = job({"name": name, **EQUAL}, **PLAIN)
    whole, generator, _ = drive(settings, tmp_path / "whole", ScriptedGenerator(), Student())
    after = die_after * len(generator.answered) // 100
    with pytest.raises(Interrupted):
        drive(settings, tmp_path / "run", ScriptedGenerator(die_after=after), Student())
    store, _, _ = drive(settings, tmp_path / "run", ScriptedGenerator(seed=3), Student())
    for num in whole.rounds():
        for table in ("accepted", "train"):
            name_ = f"rounds/{num}/{table}.parquet"
            assert store.read_table(name_) == whole.read_table(name_)
        for file in whole.files(f"rounds/{num}"):
            if file.endswith(("reasons.json", "subjects.json", "patterns.json")):
                assert store.read_json(file) == whole.read_json(file)
