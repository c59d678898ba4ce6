"""What is sent with a job: what it names by relative path; what the cluster would not have is refused here."""

from pathlib import Path

import pytest

from s3ray.errors import InputError
from s3ray.submission.parcel import pack

JOB = """\
name: job
task: tasks/mine.yaml
strategy: {name: zerogen, rows: 20}
generator: {engine: fake, prompt_form: completion}
store: /shared/runs
"""
TASK = """\
name: mine
kind: classification
fields: [text]
writes: text
labels: [{name: bad, value: 0, words: bad}, {name: good, value: 1, words: good}]
data: ../rows
prompts: {completion: {seed: {text: "A text: "}, extrapolate: {text: "Like it: "}}}
"""
GRID = """\
name: grid
job: base.yaml
axes: {strategy: {zerogen: {strategy.name: zerogen}, gold: {strategy.name: gold}}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    for name in ("jobs", "tasks", "rows"):
        (folder / name).mkdir(parents=True)
    (folder / "jobs/job.yaml").write_text(JOB)
    (folder / "tasks/mine.yaml").write_text(TASK)
    for split in ("train", "test"):
        (folder / f"rows/{split}.jsonl").write_text("")
    (folder / "rows/notes.txt").write_text("not of the job")
    monkeypatch.chdir(folder)
    return folder


def test_a_job_takes_along_what_it_names_by_relative_path() -> None:
    parcel = pack(Path("jobs/job.yaml"), None, [])
    assert parcel.files == ("jobs/job.yaml", "tasks/mine.yaml", "rows/train.jsonl", "rows/test.jsonl")
    assert parcel.command == "s3ray run jobs/job.yaml"
    assert (parcel.name, parcel.folder) == ("job", "/shared/runs/job")


def test_data_in_one_file_go_along() -> None:
    Path("rows.csv").write_text("")
    Path("tasks/mine.yaml").write_text(TASK.replace("../rows", "../rows.csv"))
    assert pack(Path("jobs/job.yaml"), None, []).files == ("jobs/job.yaml", "tasks/mine.yaml", "rows.csv")


def test_settings_and_folder_are_passed_on() -> None:
    parcel = pack(Path("jobs/job.yaml"), "s3://bucket/it", ["generator.engines=4", "name=other", "task=imdb"])
    wanted = "s3ray run jobs/job.yaml --out s3://bucket/it --set generator.engines=4 --set name=other --set task=imdb"
    assert parcel.command == wanted
    assert (parcel.name, parcel.folder, parcel.files) == ("other", "s3://bucket/it", ("jobs/job.yaml",))


def test_a_shell_reads_odd_settings_as_they_were() -> None:
    parcel = pack(Path("jobs/job.yaml"), None, ["generator.sampling={temperature: 0.5}"])
    assert parcel.command.endswith("--set 'generator.sampling={temperature: 0.5}'")


def test_a_job_runs_on_the_cluster_that_it_is_sent_to(here: Path) -> None:
    (here / "jobs/job.yaml").write_text(JOB + "cluster: {address: local}\n")
    assert pack(Path("jobs/job.yaml"), None, []).command.endswith("--set cluster.address=auto")


def test_a_grid_takes_its_job_along(here: Path) -> None:
    (here / "jobs/base.yaml").write_text(JOB.replace("name: job\n", "name: base\ncluster: {address: local}\n"))
    (here / "jobs/grid.yaml").write_text(GRID)
    parcel = pack(here / "jobs/grid.yaml", None, ["seeds=[0, 1]"])
    assert parcel.files[:3] == ("jobs/grid.yaml", "jobs/base.yaml", "tasks/mine.yaml")
    assert parcel.command == "s3ray compare jobs/grid.yaml --set 'seeds=[0, 1]' --set job.cluster.address=auto"
    assert (parcel.name, parcel.folder) == ("grid", "/shared/runs/grid")


def test_data_of_the_job_take_the_place_of_the_tasks(here: Path) -> None:
    (here / "other").mkdir()
    for split in ("train", "test"):
        (here / f"other/{split}.csv").write_text("")
    parcel = pack(Path("jobs/job.yaml"), None, ["data=other"])
    assert parcel.files == ("jobs/job.yaml", "tasks/mine.yaml", "other/train.csv", "other/test.csv")


def test_absolute_paths_are_the_clusters() -> None:
    parcel = pack(Path("jobs/job.yaml"), None, ["data=/data/of/all", "task=/tasks/of/all.yaml"])
    assert parcel.files == ("jobs/job.yaml",)


def test_keys_are_known_by_name() -> None:
    endpoint = "generator.endpoints=[{url: 'https://server/v1', key_env: MY_SERVER}]"
    assert pack(Path("jobs/job.yaml"), None, [endpoint]).key_variables == {"MY_SERVER"}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("store=runs", ["store", "is a relative path", "runs", "--out"]),
        ("store=file://runs", ["store", "is a relative path"]),
        ("store=s3://me:secret@bucket/runs", ["password"]),
        ("task=../elsewhere.yaml", ["elsewhere.yaml", "cannot be read"]),
        ("data=nowhere", ["no such folder", "nowhere"]),
        ("student.model=./models/bert", ["student.model", "is a relative path", "hub id"]),
        ("student.model=rows", ["student.model", "is a relative path"]),
        ("strategi=1", ["Did you mean `strategy`?"]),
        ("generator={engine: openai, model: m, endpoints: [{url: 'https://me:pw@host'}]}", ["generator.endpoints.0"]),
    ],
)
def test_what_the_cluster_would_not_have_is_refused(setting: str, says: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        pack(Path("jobs/job.yaml"), None, [setting])
    for part in says:
        assert part in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(InputError, match="--out: is a relative path"):
        pack(Path("jobs/job.yaml"), "runs/mine", [])


def test_a_job_outside_the_folder_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "tasks")
    with pytest.raises(InputError, match="outside the folder that you submit from"):
        pack(here / "jobs/job.yaml", None, ["task=imdb"])
