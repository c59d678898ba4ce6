"""What a submitter says and does, with a cluster that is made up."""

import asyncio
import io
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from s3ray.addresses import Named
from s3ray.errors import InputError, RunError
from s3ray.launch import submit
from s3ray.launch.submit import End, JobBundle, dashboard, end_of, environment, next_id, pack, submit_job
from tests.cluster.heads import free_port

LOG = "first line\nsecond line\n"


class Cluster:
    """A dashboard whose jobs end as they are told: a status and an exit code each."""

    def __init__(self, *ends: tuple[JobStatus, int | None], breaks: int = 0, is_gone: bool = False) -> None:
        self.ends = list(ends)
        self.breaks = breaks
        self.is_gone = is_gone
        self.silence_s = 0.0
        self.sent: list[dict[str, Any]] = []
        self.uploaded: list[list[str]] = []

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=job["submission_id"]) for job in self.sent]

    def submit_job(self, **job: Any) -> str:
        folder = Path(job["runtime_env"]["working_dir"])
        self.uploaded.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
        self.sent.append(job)
        return str(job["submission_id"])

    async def tail_job_logs(self, attempt: str) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        yield LOG[:15]
        if self.breaks:
            self.breaks -= 1
            await asyncio.sleep(self.silence_s)
            raise RuntimeError("the line broke")
        yield LOG[15:]

    def get_job_info(self, attempt: str) -> SimpleNamespace:
        if self.is_gone:
            raise ConnectionError("no route")
        status, code = self.ends[len(self.sent) - 1]
        if self.breaks:
            status = JobStatus.RUNNING
        return SimpleNamespace(status=status, driver_exit_code=code, message="Ray's words")

    def get_job_logs(self, attempt: str) -> str:
        return LOG


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobBundle:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "_LOOK_EVERY_S", 0.0)
    Path("jobs").mkdir()
    Path("jobs/job.yaml").write_text("name: job\n")
    Path("jobs/.gitignore").write_text("job.yaml\n")
    return JobBundle(
        name="job",
        folder="/shared/job",
        command="s3ray run jobs/job.yaml",
        files=("jobs/job.yaml",),
        key_variables=frozenset(),
    )


def send(
    cluster: Cluster, bundle: JobBundle, monkeypatch: pytest.MonkeyPatch, retries: int = 0, wait: bool = True
) -> str:
    monkeypatch.setattr(submit, "_connect", lambda address: cluster)
    said = io.StringIO()
    submit_job(bundle, Named(address="head"), {"A": "b"}, Console(file=said, width=100), wait=wait, retries=retries)
    return said.getvalue()


def test_a_job_is_sent_with_its_files_and_followed(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster((JobStatus.SUCCEEDED, 0))
    text = send(cluster, bundle, monkeypatch)
    assert cluster.uploaded == [["jobs/job.yaml"]]
    assert cluster.sent[0]["entrypoint"] == "s3ray run jobs/job.yaml"
    assert cluster.sent[0]["runtime_env"]["env_vars"] == {"A": "b"}
    assert text.count("first line\nsecond line\n") == 1
    assert "ray job stop --address http://head:8265 job-1" in text


def test_what_is_printed_can_be_pasted_into_a_shell(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "/my runs/it's #1"
    text = send(Cluster((JobStatus.SUCCEEDED, 0)), replace(bundle, folder=place), monkeypatch)
    [line] = [line for line in text.splitlines() if "watch it" in line]
    assert shlex.split(line.partition(":")[2]) == ["s3ray", "watch", place]
    with pytest.raises(RunError) as failed:
        send(Cluster((JobStatus.FAILED, 3)), replace(bundle, folder=place), monkeypatch)
    assert shlex.split(failed.value.hint.split("`")[1]) == ["s3ray", "status", place]


@pytest.mark.parametrize(
    ("option", "variables", "address", "where"),
    [
        ("head:1", {"RAY_API_SERVER_ADDRESS": "http://a:2"}, "head:1", "--address"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://a:2", "RAY_ADDRESS": "b"}, "http://a:2", "RAY_API_SERVER_ADDRESS"),
        (None, {"RAY_API_SERVER_ADDRESS": "", "RAY_ADDRESS": "http://b:3"}, "http://b:3", "RAY_ADDRESS"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265", "--address"),
    ],
)
def test_the_dashboard_is_looked_for_where_ray_looks_for_it(
    option: str | None, variables: dict[str, str], address: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, variables.get(name, ""))
    assert dashboard(option) == Named(address=address, where=where)


def test_what_is_no_dashboard_is_told_at_once_with_the_variable_that_named_it() -> None:
    bundle = JobBundle(name="job", folder="/job", command="true", files=(), key_variables=frozenset())
    for address, says in (
        (f"http://127.0.0.1:{free_port()}", "nothing listens there"),
        ("ftp://head:1", "is not the address of a dashboard"),
        ("http://head:port", "is not the address of a dashboard"),
    ):
        named = Named(address=address, where="RAY_API_SERVER_ADDRESS")
        with pytest.raises(InputError, match=f"^RAY_API_SERVER_ADDRESS: {says}"):
            submit_job(bundle, named, {}, Console(), wait=False, retries=0)


def test_a_log_goes_on_where_the_line_broke(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    text = send(Cluster((JobStatus.SUCCEEDED, 0), breaks=2), bundle, monkeypatch)
    assert text.count("first line") == text.count("second line") == 1


def test_a_failed_job_is_sent_again_under_the_next_id(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster((JobStatus.FAILED, 3), (JobStatus.FAILED, None), (JobStatus.SUCCEEDED, 0))
    text = send(cluster, bundle, monkeypatch, retries=5)
    assert [job["submission_id"] for job in cluster.sent] == ["job-1", "job-2", "job-3"]
    assert "job-2 failed: Ray's words; another attempt" in text


@pytest.mark.parametrize(
    ("status", "code", "error", "num_sent"),
    [
        (JobStatus.FAILED, 3, RunError, 2),
        (JobStatus.FAILED, 2, InputError, 1),
        (JobStatus.FAILED, 127, InputError, 1),
        (JobStatus.STOPPED, None, RunError, 1),
    ],
)
def test_what_ends_otherwise_is_told_by_the_exit_code(
    bundle: JobBundle,
    monkeypatch: pytest.MonkeyPatch,
    status: JobStatus,
    code: int | None,
    error: type[InputError | RunError],
    num_sent: int,
) -> None:
    cluster = Cluster((status, code), (status, code))
    with pytest.raises(error):
        send(cluster, bundle, monkeypatch, retries=1)
    assert len(cluster.sent) == num_sent


def test_nobody_needs_to_wait(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    text = send(Cluster(), bundle, monkeypatch, wait=False)
    assert "s3ray watch /shared/job" in text
    assert "first line" not in text


def test_a_cluster_that_is_out_of_reach_is_waited_for_no_longer_than_said(
    bundle: JobBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_UNREACHABLE_S", 0.0)
    with pytest.raises(RunError, match="out of reach"):
        send(Cluster(is_gone=True), bundle, monkeypatch)


def test_a_line_that_went_dead_is_taken_up_again(bundle: JobBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_SILENCE_S", 0.05)
    cluster = Cluster((JobStatus.SUCCEEDED, 0), breaks=2)
    cluster.silence_s = 3600.0
    text = send(cluster, bundle, monkeypatch)
    assert text.count("first line") == text.count("second line") == 1


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], "run-1"),
        (["run-1", "run-2"], "run-3"),
        (["run-2", None, "raysubmit_x"], "run-3"),
        (["run-9", "run-10"], "run-11"),
        (["run-x-7", "other-8", "xrun-9", "run-3-old"], "run-1"),
    ],
)
def test_the_next_id_is_free(known: list[str | None], expected: str) -> None:
    assert next_id("run", known) == expected


def test_a_dot_in_a_name_is_a_dot() -> None:
    assert next_id("a.b", ["axb-4"]) == "a.b-1"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, "done"),
        ("STOPPED", None, "stopped"),
        ("FAILED", 2, "refused"),
        ("FAILED", 127, "refused"),
        ("FAILED", 3, "failed"),
        ("FAILED", -9, "failed"),
        ("FAILED", None, "failed"),
    ],
)
def test_only_a_failure_is_worth_another_attempt(status: str, code: int | None, expected: End) -> None:
    assert end_of(status, code) == expected


def test_the_environment_is_what_was_said_and_no_more() -> None:
    known = environment(["AWS_REGION=eu", "OPTIONS=a=b"], ())
    assert known == {"PYTHONUNBUFFERED": "1", "AWS_REGION": "eu", "OPTIONS": "a=b"}


@pytest.mark.parametrize(
    "text", ["HF_TOKEN=hush", "AWS_SECRET_ACCESS_KEY=hush", "db_password=hush", "MY_SERVER=hush", "hush", "a b=hush"]
)
def test_secrets_are_neither_sent_nor_shown(text: str) -> None:
    with pytest.raises(InputError) as caught:
        environment([text], {"MY_SERVER"})
    assert "hush" not in str(caught.value)


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
    bundle = pack(Path("jobs/job.yaml"), None, [])
    assert bundle.files == ("jobs/job.yaml", "tasks/mine.yaml", "rows/train.jsonl", "rows/test.jsonl")
    assert bundle.command == "s3ray run jobs/job.yaml"
    assert (bundle.name, bundle.folder) == ("job", "/shared/runs/job")


def test_data_in_one_file_go_along() -> None:
    Path("rows.csv").write_text("")
    Path("tasks/mine.yaml").write_text(TASK.replace("../rows", "../rows.csv"))
    assert pack(Path("jobs/job.yaml"), None, []).files == ("jobs/job.yaml", "tasks/mine.yaml", "rows.csv")


def test_settings_and_folder_are_passed_on() -> None:
    bundle = pack(Path("jobs/job.yaml"), "s3://bucket/it", ["generator.engines=4", "name=other", "task=imdb"])
    wanted = "s3ray run jobs/job.yaml --out s3://bucket/it --set generator.engines=4 --set name=other --set task=imdb"
    assert bundle.command == wanted
    assert (bundle.name, bundle.folder, bundle.files) == ("other", "s3://bucket/it", ("jobs/job.yaml",))


def test_a_shell_reads_odd_settings_as_they_were() -> None:
    bundle = pack(Path("jobs/job.yaml"), None, ["generator.sampling={temperature: 0.5}"])
    assert bundle.command.endswith("--set 'generator.sampling={temperature: 0.5}'")


def test_a_job_runs_on_the_cluster_that_it_is_sent_to(here: Path) -> None:
    (here / "jobs/job.yaml").write_text(JOB + "cluster: {address: local}\n")
    assert pack(Path("jobs/job.yaml"), None, []).command.endswith("--set cluster.address=auto")


def test_a_grid_takes_its_job_along(here: Path) -> None:
    (here / "jobs/base.yaml").write_text(JOB.replace("name: job\n", "name: base\ncluster: {address: local}\n"))
    (here / "jobs/grid.yaml").write_text(GRID)
    bundle = pack(here / "jobs/grid.yaml", None, ["seeds=[0, 1]"])
    assert bundle.files[:3] == ("jobs/grid.yaml", "jobs/base.yaml", "tasks/mine.yaml")
    assert bundle.command == "s3ray compare jobs/grid.yaml --set 'seeds=[0, 1]' --set job.cluster.address=auto"
    assert (bundle.name, bundle.folder) == ("grid", "/shared/runs/grid")


def test_data_of_the_job_take_the_place_of_the_tasks(here: Path) -> None:
    (here / "other").mkdir()
    for split in ("train", "test"):
        (here / f"other/{split}.csv").write_text("")
    bundle = pack(Path("jobs/job.yaml"), None, ["data=other"])
    assert bundle.files == ("jobs/job.yaml", "tasks/mine.yaml", "other/train.csv", "other/test.csv")


def test_absolute_paths_are_the_clusters() -> None:
    bundle = pack(Path("jobs/job.yaml"), None, ["data=/data/of/all", "task=/tasks/of/all.yaml"])
    assert bundle.files == ("jobs/job.yaml",)


def test_keys_are_known_by_name() -> None:
    endpoint = "generator.endpoints=[{url: 'https://server/v1', key_env: MY_SERVER}]"
    assert pack(Path("jobs/job.yaml"), None, [endpoint]).key_variables == {"MY_SERVER"}
    extras = "headers: {X-Key: '${GATEWAY_PHRASE}'}, query: {sig: 'a ${B_SIG}'}"
    endpoint = f"generator.endpoints=[{{url: 'https://server/v1', {extras}}}]"
    found = pack(Path("jobs/job.yaml"), None, [endpoint]).key_variables
    assert found == {"OPENAI_API_KEY", "GATEWAY_PHRASE", "B_SIG"}


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
        ("generator={engine: vllm, model: org/m, engine_args: {model: m}}", ["engine_args.model", "generator.model"]),
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
