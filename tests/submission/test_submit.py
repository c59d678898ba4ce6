"""What a submitter says and does, with a cluster that is made up."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from s3ray.errors import InputError, RunError
from s3ray.submission import submit
from s3ray.submission.parcel import Parcel
from s3ray.submission.submit import submit_job

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
def parcel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parcel:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "_LOOK_EVERY_S", 0.0)
    Path("jobs").mkdir()
    Path("jobs/job.yaml").write_text("name: job\n")
    Path("jobs/.gitignore").write_text("job.yaml\n")
    return Parcel(
        name="job",
        folder="/shared/job",
        command="s3ray run jobs/job.yaml",
        files=("jobs/job.yaml",),
        key_variables=frozenset(),
    )


def send(cluster: Cluster, parcel: Parcel, monkeypatch: pytest.MonkeyPatch, retries: int = 0, wait: bool = True) -> str:
    monkeypatch.setattr(submit, "_connect", lambda address: cluster)
    said = io.StringIO()
    submit_job(parcel, "head", {"A": "b"}, Console(file=said, width=100), wait=wait, retries=retries)
    return said.getvalue()


def test_a_job_is_sent_with_its_files_and_followed(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster((JobStatus.SUCCEEDED, 0))
    text = send(cluster, parcel, monkeypatch)
    assert cluster.uploaded == [["jobs/job.yaml"]]
    assert cluster.sent[0]["entrypoint"] == "s3ray run jobs/job.yaml"
    assert cluster.sent[0]["runtime_env"]["env_vars"] == {"A": "b"}
    assert text.count("first line\nsecond line\n") == 1
    assert "ray job stop --address http://head:8265 job-1" in text


def test_a_log_goes_on_where_the_line_broke(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    text = send(Cluster((JobStatus.SUCCEEDED, 0), breaks=2), parcel, monkeypatch)
    assert text.count("first line") == text.count("second line") == 1


def test_a_failed_job_is_sent_again_under_the_next_id(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster((JobStatus.FAILED, 3), (JobStatus.FAILED, None), (JobStatus.SUCCEEDED, 0))
    text = send(cluster, parcel, monkeypatch, retries=5)
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
    parcel: Parcel,
    monkeypatch: pytest.MonkeyPatch,
    status: JobStatus,
    code: int | None,
    error: type[InputError | RunError],
    num_sent: int,
) -> None:
    cluster = Cluster((status, code), (status, code))
    with pytest.raises(error):
        send(cluster, parcel, monkeypatch, retries=1)
    assert len(cluster.sent) == num_sent


def test_nobody_needs_to_wait(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    text = send(Cluster(), parcel, monkeypatch, wait=False)
    assert "s3ray watch /shared/job" in text
    assert "first line" not in text


def test_a_cluster_that_is_out_of_reach_is_waited_for_no_longer_than_said(
    parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_UNREACHABLE_S", 0.0)
    with pytest.raises(RunError, match="out of reach"):
        send(Cluster(is_gone=True), parcel, monkeypatch)


def test_a_line_that_went_dead_is_taken_up_again(parcel: Parcel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_SILENCE_S", 0.05)
    cluster = Cluster((JobStatus.SUCCEEDED, 0), breaks=2)
    cluster.silence_s = 3600.0
    text = send(cluster, parcel, monkeypatch)
    assert text.count("first line") == text.count("second line") == 1
