"""Runs of an earlier version go on, and a run in one process writes what a run on a cluster writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s3ray.cli import main
from s3ray.storage.run_folder import RunStore
from s3ray.student.trained import find_trained, training_id_at
from s3ray.telemetry.events import EngineLost, RunFailed, read_events
from tests.models import make_bert
from tests.recorded.digests import run_digests

RECORDED = Path(__file__).parents[1] / "recorded"
DIGESTS = json.loads((RECORDED / "digests.json").read_text())
FAST = ("--set", "generator.fake.tokens_per_s=0")
WITHOUT_RAY = """
import sys
from s3ray.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", [name for name in ("ray", "vllm") if name in sys.modules])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the student and the killed run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    make_bert(tmp_path / "bert")
    # A model is known by the sizes of its files, and transformers was not offline when this one was first made.
    settings = tmp_path / "bert/tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"local_files_only": true', '"local_files_only": false'))
    shutil.copytree(RECORDED / "killed_run", tmp_path / "killed_run")
    return tmp_path


def s3ray(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["s3ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def of_round_0(digests: dict[str, str]) -> dict[str, str]:
    """Later rounds follow from the student's mistakes, and what it computes depends on the CPU."""
    return {name: digest for name, digest in digests.items() if name.startswith("rounds/0/")}


def test_a_run_that_an_earlier_version_began_on_ray_goes_on_in_one_process(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "killed_run"
    before = {path: path.read_bytes() for path in sorted(run.glob("rounds/*/chunks/*"))}
    assert s3ray(monkeypatch, "run", "killed_run/config.yaml", "--out", "killed_run", "--local") == 0
    assert run_digests(run) == DIGESTS
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((run / "metrics.json").read_text())["rounds"]
    (run / "report.html").unlink()
    assert s3ray(monkeypatch, "report", "killed_run") == 0
    assert "accuracy" in (run / "report.html").read_text()
    capsys.readouterr()
    assert s3ray(monkeypatch, "status", "killed_run") == 0
    assert "finished" in capsys.readouterr().out


def test_a_student_that_an_earlier_version_trained_is_known_as_trained(here: Path) -> None:
    student = str(here / "killed_run/students/0")
    trained = find_trained(student, training_id_at(student))
    assert trained is not None
    assert (trained.num_rows, trained.best_epoch, trained.epochs[0].epoch) == (60, 1, 1)
    marker = json.loads((here / "killed_run/students/0/trained.json").read_text())
    assert json.loads(json.dumps(trained.as_dict())) == marker


def test_a_run_in_one_process_loads_no_ray_and_is_the_run_of_a_cluster(here: Path) -> None:
    command = ["run", "killed_run/config.yaml", "--out", "fresh", "--local", *FAST]
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, *command], check=True, stdout=subprocess.PIPE, text=True)
    assert "loaded: []" in done.stdout
    assert "one engine and one train worker" in done.stdout
    assert of_round_0(run_digests(here / "fresh")) == of_round_0(DIGESTS)
    # What decides whether a folder goes on, here or on a cluster, is what the run on a cluster wrote there.
    [own, other] = [json.loads((here / name / "fingerprint.json").read_text()) for name in ("fresh", "killed_run")]
    assert [own[key] for key in ("fingerprint", "requests", "settings")] == [
        other[key] for key in ("fingerprint", "requests", "settings")
    ]


def test_an_engine_that_dies_ends_the_run_and_the_same_command_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("run", "killed_run/config.yaml", "--out", "mortal", "--local", *FAST)
    assert s3ray(monkeypatch, *command, "--set", "generator.fake.die_after=30") == 3
    said = capsys.readouterr().err
    assert "engine-0: scripted death after 30 answers" in said
    assert "goes on from there" in said
    store = RunStore(str(here / "mortal"))
    assert store.num_journalled(0, "seed") == 30 - store.num_journalled(0, "reasons")
    assert {EngineLost, RunFailed} <= {type(event) for event in read_events(store)}
    assert s3ray(monkeypatch, *command) == 0
    assert of_round_0(run_digests(here / "mortal")) == of_round_0(DIGESTS)


@pytest.mark.parametrize("field", ["generator.tensor_parallel", "generator.pipeline_parallel"])
def test_an_engine_of_several_gpus_is_refused_before_anything_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    command = ("run", "killed_run/config.yaml", "--out", "new", "--local", "--set", f"{field}=2")
    assert s3ray(monkeypatch, *command) == 2
    said = capsys.readouterr().err
    assert field in said
    assert "--local" in said
    assert not (here / "new").exists()
