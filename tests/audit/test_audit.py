"""Sets with known defects are reported as such, others are not; what cannot be audited is refused."""

import importlib.util
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from s3ray.audit.audit import audit_run
from s3ray.cli import main
from s3ray.errors import InputError
from s3ray.report.audit import AUDIT
from s3ray.storage.run_folder import RunStore
from s3ray.tasks import load_task
from tests.audit.defects import flipped, gold_reviews, make_model, make_run, question, review, written


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("audit") / "bert")


def s3ray(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["s3ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def quietly(text: str) -> None:
    """Listens to nothing."""


def make_defects(folder: Path, model: str) -> RunStore:
    """Round 0: 100 good rows. Round 1: 200 rows, 20 of them mislabelled, 6 and 4 copied from gold, 10 written twice."""
    chance = random.Random(5)
    gold = gold_reviews(chance)
    good = [review(chance, number) for number in range(100)]
    new = flipped([review(chance, number) for number in range(180)], 20)
    copies = [*gold["test"][:6], *gold["extrapolate"][:4], *new[100:110]]
    rounds = [written(good, 0), written([*new, *copies], 1, gold["extrapolate"])]
    return make_run(folder, model, gold, rounds)


def test_defects_are_reported(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_defects(tmp_path / "run", model)
    assert s3ray(monkeypatch, "audit", str(tmp_path / "run")) == 0
    audit = store.read_json(AUDIT)
    assert [(group["name"], group["rows"], group["looked_at"]) for group in audit["groups"]] == [
        ("all", 300, 300),
        ("round 0 seed", 100, 100),
        ("round 1 extrapolated", 200, 200),
    ]
    whole, seed, extrapolated = audit["groups"]
    assert (audit["checker"]["held_out"]["by"], audit["checker"]["held_out"]["rows"]) == ("test", 120)
    assert audit["checker"]["held_out"]["scores"]["accuracy"] > 0.9
    for group, right in ((whole, 280 / 300), (seed, 1.0), (extrapolated, 180 / 200)):
        assert group["label_accuracy"]["low"] <= right <= group["label_accuracy"]["high"]
        assert group["label_accuracy"]["value"] == pytest.approx(right, abs=0.06)
    assert whole["copies_of_gold"] == {"extrapolate": 4, "select": 0, "test": 6}
    assert (whole["exact_copies"], whole["near_copies"]) == (10, 10)
    assert seed["exact_copies"] == 0
    assert extrapolated["parents"]["rows"] == 200
    assert extrapolated["parents"]["above_0.9"] <= 1  # the copies were given other parents
    assert whole["coverage"] > 0
    found = "\n".join(audit["findings"])
    assert "6 rows are copies or near copies of test rows" in found
    assert "4 rows are copies or near copies of gold rows outside the test part" in found
    assert "Rows repeat each other: all 3.3 % exact" in found
    printed = capsys.readouterr().out
    assert "round 1 extrapolated" in printed
    assert "copies of test" in printed
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Audit of the synthetic rows" in page
    assert "6 rows are copies or near copies of test rows" in page
    assert "<th>self-BLEU</th>" in page


def test_a_set_like_gold_gives_no_alarm_and_twice_the_same_audit(model: str) -> None:
    chance = random.Random(6)
    gold = gold_reviews(chance)
    rows = [review(chance, number) for number in range(240)]
    store = make_run(f"memory://{uuid.uuid4().hex}/run", model, gold, [written(rows, 0)])
    audit = audit_run(store, 100, quietly)
    assert audit["findings"] == []
    assert audit["looked_at"] == {"synthetic": 100, "gold": 100, "test": 100}
    (whole,) = audit["groups"]
    assert whole["told_apart"] == pytest.approx(0.5, abs=0.15)
    assert whole["coverage"] == pytest.approx(audit["gold"]["coverage"], abs=0.2)
    assert whole["label_drift"] == 0
    assert audit_run(store, 100, quietly) == audit
    assert json.loads(json.dumps(audit)) == store.read_json(AUDIT) == audit


def test_a_small_test_part_is_helped_by_cross_validation(tmp_path: Path, model: str) -> None:
    chance = random.Random(7)
    gold = gold_reviews(chance, extrapolate=60, select=20, test=20)
    rows = written([review(chance, number) for number in range(30)], 0)
    audit = audit_run(make_run(tmp_path / "run", model, gold, [rows]), 2000, quietly)
    assert audit["checker"]["held_out"]["by"] == "cross-validation"
    assert audit["checker"]["held_out"]["rows"] == 100
    assert sum(map(sum, audit["checker"]["confusion"])) == 100


def test_a_span_task_is_judged_by_the_answers_that_are_found(tmp_path: Path, model: str) -> None:
    chance = random.Random(8)
    gold: dict[str, Any] = {
        part: [question(chance, number) for number in range(num)]
        for part, num in (("extrapolate", 40), ("select", 20), ("test", 120))
    }
    rows = [written([question(chance, number) for number in range(40)], 0, gold["extrapolate"])]
    store = make_run(tmp_path / "run", model, gold, rows, task="adversarial_qa")
    audit = audit_run(store, 2000, quietly)
    (whole,) = audit["groups"]
    assert set(whole["answered"]) == {"exact_match", "f1"}
    assert whole["label_accuracy"] is None
    assert whole["labels"] == {}
    assert whole["parents"]["rows"] == 40


def test_what_has_no_synthetic_rows_is_refused(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", model, gold_reviews(random.Random(9)), [], strategy="gold")
    assert s3ray(monkeypatch, "audit", str(tmp_path / "run")) == 2
    assert "nothing to audit" in capsys.readouterr().err
    assert not (tmp_path / "run" / AUDIT).exists()


def test_gold_rows_among_the_training_rows_are_not_audited(tmp_path: Path, model: str) -> None:
    gold = gold_reviews(random.Random(9))
    with pytest.raises(InputError, match="nothing to audit"):
        audit_run(make_run(tmp_path / "run", model, gold, [gold["extrapolate"]]), 2000, quietly)


def test_without_its_extra_the_command_says_how_to_get_it(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_defects(tmp_path / "run", model)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sacrebleu" else found(name))
    assert s3ray(monkeypatch, "audit", str(tmp_path / "run")) == 2
    assert "pip install 's3ray[audit]'" in capsys.readouterr().err


def test_a_student_that_is_gone_is_refused_before_anything_is_read(tmp_path: Path, model: str) -> None:
    store = make_defects(tmp_path / "run", model)
    text = (tmp_path / "run" / "config.yaml").read_text().replace(model, "./gone")
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"student\.model"):
        audit_run(store, 2000, quietly)


def test_the_task_is_the_one_of_the_run(tmp_path: Path, model: str) -> None:
    """Its YAML may be gone by now."""
    store = make_defects(tmp_path / "run", model)
    text = (tmp_path / "run" / "config.yaml").read_text().replace("task: review_sentences", "task: gone.yaml")
    (tmp_path / "run" / "config.yaml").write_text(text)
    assert audit_run(store, 100, quietly)["task"] == load_task("review_sentences").name
