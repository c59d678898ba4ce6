"""`s3ray run` as a user starts it, with fake engines on a Ray of its own: killed anywhere, it ends in the same data."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.journal import audit
from benchmarks.processes import below
from s3ray.storage.object_store import read_file
from s3ray.storage.run_folder import RunStore
from tests.buckets import serve_bucket
from tests.cluster.heads import RAY, WAIT_S, Head
from tests.models import make_bert

pytestmark = pytest.mark.ray

SLOW = "tokens_per_s: 15"
FAST = "tokens_per_s: 4000"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student so small that training costs nothing."""
    return make_bert(tmp_path_factory.mktemp("student"))


def write_job(folder: Path, student: Path, engines: int = 2, fake: str = FAST, name: str = "job") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\ntask: review_sentences\ngold: {{extrapolate: 30, select: 20, test: 20}}\n"
        "strategy: {name: s3, rounds: 1, seed_examples: 60, rows: 80, reasons_per_label: 5}\n"
        f"generator: {{engine: fake, engines: {engines}, prompt_form: completion, max_num_seqs: 4,"
        f" max_restarts: 100, fake: {{{fake}}}}}\n"
        f"student: {{model: {student}, epochs: 1, max_length: 32}}\ncluster: {{address: local}}\n"
    )
    return path


def start(job: Path, out: Path, command: str = "run") -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", "from s3ray.cli import main; main()", command, str(job), "--out", str(out)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(job: Path, out: Path, command: str = "run") -> str:
    process = start(job, out, command)
    text, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, text
    return text


def events(out: Path, name: str) -> list[dict[str, Any]]:
    if not (out / "events.jsonl").exists():
        return []
    return [event for event in RunStore(out).events() if event["event"] == name]


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.05)


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=WAIT_S)


def dataset(out: Path) -> str:
    """Digest of the final synthetic set, byte by byte."""
    (file,) = sorted((out / "dataset").rglob("*.parquet"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_books(out: Path) -> None:
    """Each request stands once in the journal, every round balances, and the student was tested."""
    books = audit(out)
    assert books["rounds"] == 2
    assert (books["lost"], books["duplicated"], books["unbalanced"]) == (0, 0, 0)
    assert set(RunStore(out).read_json("metrics.json")["test"]) >= {"accuracy", "num_examples"}


@pytest.fixture(scope="module")
def undisturbed(student: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    text = finish(write_job(folder, student), folder / "run")
    assert "accuracy" in text
    assert (folder / "run" / "report.html").exists()
    check_books(folder / "run")
    return dataset(folder / "run")


def test_a_driver_killed_twice_ends_in_the_same_data_as_a_submitted_ray_job(
    tmp_path: Path, student: Path, undisturbed: str, head: Head
) -> None:
    out = tmp_path / "run"
    slow = write_job(tmp_path, student, engines=3, fake=SLOW)
    process = start(slow, out)
    wait_for(process, lambda: len(events(out, "chunk_written")) >= 2)
    kill_driver(process)
    process = start(slow, out)
    wait_for(process, lambda: len(events(out, "run_started")) == 2 and bool(events(out, "student_started")))
    kill_driver(process)
    go_on_as_a_ray_job(write_job(tmp_path, student, engines=1), out, head)
    assert [event["resumed"] for event in events(out, "run_started")] == [False, True, True]
    check_books(out)
    assert dataset(out) == undisturbed


QUICK_LEASE = (
    "import s3ray.storage.lease as lease; lease.LEASE_S, lease.BEAT_S = 6, 1; from s3ray.cli import main; main()"
)
HELD = """import time; from s3ray.storage.run_folder import RunStore; write = RunStore.write_json
is_held = lambda name: name == "rounds/1/round.json"
RunStore.write_json = lambda own, name, what: time.sleep(1e6) if is_held(name) else write(own, name, what)
"""


def test_a_run_on_an_object_store_goes_on_from_another_machine(
    tmp_path: Path, student: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(job: Path, before: str = "") -> "subprocess.Popen[str]":
        """A driver on a machine that knows nothing: no home, no temporary file, no working directory of before."""
        home = Path(tempfile.mkdtemp(dir="/tmp"))  # short, because Ray puts sockets below it
        command = [sys.executable, "-c", before + QUICK_LEASE, "run", str(job)]
        nowhere = os.environ | {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=home, env=nowhere, **pipe)

    with serve_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        store = RunStore(f"{bucket.url}/runs/job")
        slow, fast = tmp_path / "slow", tmp_path / "fast"
        slow.mkdir()
        fast.mkdir()
        jobs = write_job(slow, student, fake="tokens_per_s: 30"), write_job(fast, student, engines=1)
        for job in jobs:
            job.write_text(job.read_text() + f"store: {bucket.url}/runs\n")
        process = begin(jobs[0], HELD)  # however late it is killed, round 1 is not finished
        wait_for(process, lambda: store.num_journalled(1, "extrapolate") > 0)
        kill_driver(process)
        assert store.rounds() == [0]
        process = begin(jobs[1])
        text, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, text
        assert f"Run folder: {bucket.url}/runs/job" in text
        assert {event["resumed"] for event in store.events() if event["event"] == "run_started"} == {False, True}
        assert store.has("students/1/model.safetensors")
        assert store.has("report.html")
        content = read_file(store.url("dataset/data/train.parquet"))
    assert hashlib.sha256(content).hexdigest() == undisturbed


def test_without_engines_left_a_run_says_how_to_go_on_and_goes_on_though_engines_die(
    tmp_path: Path, student: Path, undisturbed: str
) -> None:
    dying = write_job(tmp_path, student, name="dying", fake="die_after: 9")
    dying.write_text(dying.read_text().replace("max_restarts: 100", "max_restarts: 0"))
    out = tmp_path / "run"
    process = start(dying, out)
    text, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 3
    assert "no engine is left" in text
    assert "goes on from there" in text
    assert "Traceback" not in text
    kept = sorted(path.name for path in (out / "rounds/0/chunks").iterdir())
    assert kept
    num_chunks, num_lost = (len(events(out, name)) for name in ("chunk_written", "engine_lost"))

    process = start(write_job(tmp_path, student, fake=f"{SLOW}, die_after: 20"), out)
    wait_for(process, lambda: len(events(out, "chunk_written")) >= num_chunks + 2)
    next(below("GeneratorActor", process.pid)).kill()
    text, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, text
    assert len(events(out, "engine_lost")) >= num_lost + 2
    assert set(kept) <= {path.name for path in (out / "rounds/0/chunks").iterdir()}
    check_books(out)
    assert dataset(out) == undisturbed


def go_on_as_a_ray_job(job: Path, out: Path, head: Head) -> None:
    """A job sent by Ray's own client finishes the run; a plan finds the same cluster by its address."""
    named = job.with_name("named.yaml")
    named.write_text(job.read_text().replace("address: local", f"address: '{head.address}'"))
    job.write_text(job.read_text().replace("address: local", "address: auto"))
    inner = "from s3ray.cli import main; main()"
    entrypoint = [sys.executable, "-c", inner, "run", str(job), "--out", str(out)]
    submit = [RAY, "job", "submit", "--address", head.dashboard, "--", *entrypoint]
    with_token = head.environment | {"RAY_AUTH_MODE": "token"}  # as Ray's documentation asks of its own clients
    done = subprocess.run(submit, capture_output=True, text=True, timeout=WAIT_S, check=False, env=with_token)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on the Ray cluster at" in done.stdout
    command = [sys.executable, "-c", inner, "plan", str(named)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=head.environment)
    assert "can run on the Ray cluster at" in done.stdout, done.stderr
