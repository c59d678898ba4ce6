"""`s3ray run` as a user starts it, with fake engines: killed anywhere, it ends in the same data."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from benchmarks.journal import audit
from benchmarks.processes import below
from s3ray.storage.run_folder import RunStore
from tests.buckets import serve_bucket
from tests.cluster.heads import RAY, WAIT_S, Head
from tests.models import make_bert

pytestmark = pytest.mark.ray

S3RAY = [sys.executable, "-c", "from s3ray.cli import main; main()"]
SLOW = "tokens_per_s: 15"
FAST = "tokens_per_s: 4000"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student so small that training costs nothing."""
    return make_bert(tmp_path_factory.mktemp("student"))


def write_job(
    folder: Path, student: Path, engines: int = 2, fake: str = FAST, max_restarts: int = 100, address: str = "local"
) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "job.yaml"
    path.write_text(
        "name: job\ntask: review_sentences\ngold: {extrapolate: 30, select: 20, test: 20}\n"
        "strategy: {name: s3, rounds: 1, seed_examples: 60, rows: 80, reasons_per_label: 5}\n"
        f"generator: {{engine: fake, engines: {engines}, prompt_form: completion, max_num_seqs: 4,"
        f" max_restarts: {max_restarts}, fake: {{{fake}}}}}\n"
        f"student: {{model: {student}, epochs: 1, max_length: 32}}\ncluster: {{address: '{address}'}}\n"
    )
    return path


def start(job: Path, out: Path, *options: str, command: str = "run") -> "subprocess.Popen[str]":
    words = [*S3RAY, command, str(job), "--out", str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(job: Path, out: Path, *options: str, command: str = "run") -> str:
    process = start(job, out, *options, command=command)
    text, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, text
    return text


def events(out: Path, name: str) -> list[dict[str, Any]]:
    if not (out / "events.jsonl").exists():
        return []
    return [event for event in RunStore(out).events() if event["event"] == name]


def wait_for(process: "subprocess.Popen[str]", condition: Callable[[], bool], every_s: float = 0.2) -> None:
    """Wait until the condition holds; fails if the process ends before. Look seldom where a look costs much."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(every_s)


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=WAIT_S)


def check_books(out: Path) -> None:
    """Each request stands once in the journal, every round balances, and the student was tested."""
    books = audit(out)
    assert books["rounds"] == 2
    assert (books["lost"], books["duplicated"], books["unbalanced"]) == (0, 0, 0)
    assert set(RunStore(out).read_json("metrics.json")["test"]) >= {"accuracy", "num_examples"}
    assert (out / "report.html").exists()


def undisturbed_dataset(folder: Path, student: Path) -> bytes:
    """The dataset of the same run in one process, where nothing is killed."""
    assert "accuracy" in finish(write_job(folder, student), folder / "run", "--local")
    check_books(folder / "run")
    return (folder / "run/dataset/data/train.parquet").read_bytes()


QUICK_LEASE = (
    "import s3ray.storage.lease as lease; lease.LEASE_S, lease.BEAT_S = 6, 1; from s3ray.cli import main; main()"
)
HELD = """import time; from s3ray.storage.run_folder import RunStore; write = RunStore.write_json
is_held = lambda name: name == "rounds/1/round.json"
RunStore.write_json = lambda own, name, what: time.sleep(1e6) if is_held(name) else write(own, name, what)
"""


def begin(job: Path, before: str = "") -> "subprocess.Popen[str]":
    """Start a driver as on a new machine: its home, temporary files and working directory are empty."""
    home = Path(tempfile.mkdtemp(dir="/tmp"))  # short, because Ray puts sockets below it
    command = [sys.executable, "-c", before + QUICK_LEASE, "run", str(job)]
    nowhere = os.environ | {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, cwd=home, env=nowhere, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_that_dies_in_every_way_goes_on_elsewhere_and_ends_in_the_same_data(
    tmp_path: Path, student: Path, head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store: out of engines, then engines and driver killed, then the driver again, then as a Ray job."""
    with serve_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        store = RunStore(f"{bucket.url}/runs/job")

        def make_job(name: str, **settings: Any) -> Path:
            job = write_job(tmp_path / name, student, **settings)
            job.write_text(job.read_text() + f"store: {bucket.url}/runs\n")
            return job

        def num(name: str) -> int:
            return sum(event["event"] == name for event in store.events()) if store.has("config.yaml") else 0

        process = begin(make_job("dying", fake="die_after: 9", max_restarts=0))
        text, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 3, text
        assert "no engine is left" in text
        assert "goes on from there" in text
        assert "Traceback" not in text
        kept = set(store.files("rounds/0/chunks"))
        assert kept
        num_chunks, num_lost = num("chunk_written"), num("engine_lost")

        process = begin(make_job("slow", fake=f"{SLOW}, die_after: 20"))
        wait_for(
            process, lambda: num("chunk_written") >= num_chunks + 2, every_s=0.5
        )  # a server that is written in Python
        wait_for(process, kill_an_engine, every_s=0.5)
        wait_for(process, lambda: num("student_started") > 0, every_s=0.5)
        kill_driver(process)

        # However late it is killed, it is in round 1.
        process = begin(make_job("fast", fake=f"{FAST}, die_after: 20"), HELD)
        wait_for(process, lambda: store.num_journalled(1, "extrapolate") > 0, every_s=0.5)
        kill_driver(process)
        assert store.rounds() == [0]
        assert num("engine_lost") >= num_lost + 2

        sent, named = make_job("sent", engines=1, address="auto"), make_job("named", address=head.address)
        text = submit_by_ray(sent, bucket.environment, head)
        assert "on the Ray cluster at" in text
        assert f"Run folder: {bucket.url}/runs/job" in text
        plan = [*S3RAY, "plan", str(named)]
        environment = head.environment | bucket.environment
        done = subprocess.run(plan, capture_output=True, text=True, timeout=WAIT_S, check=False, env=environment)
        assert "can run on the Ray cluster at" in done.stdout, done.stderr
        resumed = [event["resumed"] for event in store.events() if event["event"] == "run_started"]
        assert resumed == [False, True, True, True]
        assert kept <= set(store.files("rounds/0/chunks"))
        assert store.has("students/1/model.safetensors")
        files, place = fsspec.url_to_fs(store.url(""))
        files.get(place, str(tmp_path / "run"), recursive=True)
    check_books(tmp_path / "run")
    assert (tmp_path / "run/dataset/data/train.parquet").read_bytes() == undisturbed_dataset(
        tmp_path / "undisturbed", student
    )


def kill_an_engine() -> bool:
    """Kill one, if there is one at this moment."""
    engine = next(below("GeneratorActor"), None)
    if engine is not None:
        engine.kill()
    return engine is not None


def submit_by_ray(job: Path, environment: dict[str, str], head: Head) -> str:
    """What a job prints that Ray's own client sends."""
    runtime_env = ["--runtime-env-json", json.dumps({"env_vars": environment})]
    command = [RAY, "job", "submit", "--address", head.dashboard, *runtime_env, "--"]
    with_token = head.environment | {"RAY_AUTH_MODE": "token"}  # as Ray's documentation asks of its own clients
    done = subprocess.run(
        [*command, sys.executable, "-c", QUICK_LEASE, "run", str(job)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        env=with_token,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
