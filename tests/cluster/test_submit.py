"""`s3ray submit` and `s3ray watch` as a user meets them: a cluster that asks for a token, and engines that die."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from s3ray.storage.run_folder import RunStore
from tests.cluster.heads import RAY, WAIT_S, Head
from tests.models import make_bert
from tests.monitor.test_documented import documented_events

pytestmark = pytest.mark.ray

# Tests that are started in the background of a script are deaf to Ctrl-C, and so would be what they start.
_HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
S3RAY = [sys.executable, "-c", f"{_HEARS}; from s3ray.cli import main; main()"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("student"))


def start(head: Head, here: Path, *words: str, token: bool = True, code: Path | None = None) -> "subprocess.Popen[str]":
    """A command on a machine that has the token, or none; it can import what lies in ``code``."""
    environment = head.environment | {"PYTHONPATH": os.pathsep.join([*sys.path, str(code or here)])}
    if not token:
        environment["RAY_AUTH_TOKEN_PATH"] = str(here / "no-token")
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen([*S3RAY, *words], cwd=here, env=environment, stdout=pipe, stderr=same, text=True)


def finish(process: "subprocess.Popen[str]", code: int) -> str:
    text, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, text
    return text


def write_job(folder: Path, student: Path, fake: str) -> None:
    """A job whose task and data lie beside it, with a single engine."""
    rows = [f'{{"text": "sentence {number} of many here", "label": {number % 2}}}' for number in range(60)]
    (folder / "mine" / "rows").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (folder / f"mine/rows/{split}.jsonl").write_text("\n".join(rows).replace("sentence", f"{split} sentence"))
    (folder / "mine" / "task.yaml").write_text(
        "name: mine\nkind: classification\nfields: [text]\nwrites: text\ndata: rows\n"
        "labels: [{name: bad, value: 0, words: bad}, {name: good, value: 1, words: good}]\n"
        "prompts:\n  completion:\n    seed: {text: 'A {{ label }} text: '}\n"
        "    extrapolate: {text: 'Like {{ parent.text }}: '}\n"
    )
    (folder / "job.yaml").write_text(
        "name: sent\ntask: mine/task.yaml\ngold: {extrapolate: 20, select: 10, test: 10}\n"
        "strategy: {name: zerogen, rows: 40}\n"
        f"generator: {{engine: fake, prompt_form: completion, max_num_seqs: 4, max_restarts: 0, fake: {{{fake}}}}}\n"
        f"student: {{model: {student}, epochs: 1, max_length: 32}}\n"
    )


def test_a_submitted_job_goes_on_after_a_failed_attempt(tmp_path: Path, student: Path, head: Head) -> None:
    here, out = tmp_path / "here", tmp_path / "shared" / "run"
    write_job(here, student, "die_after: 30")
    sent = ["submit", "job.yaml", "--address", head.dashboard, "--out", str(out)]
    assert "token" in finish(start(head, here, *sent, token=False), 2)

    text = finish(start(head, here, *sent, "--retries", "3", "--env", "HF_HUB_OFFLINE=1"), 0)
    assert "no engine is left" in text  # the log came along
    assert "sent-1 failed: its command ended with exit code 3; another attempt goes on" in text
    assert "sent-2 is finished" in text
    assert text.count("[round 0 seed] starts") == 2
    store = RunStore(out)
    events = list(store.events())
    assert [event["resumed"] for event in events if event["event"] == "run_started"] == [False, True]
    assert store.has("metrics.json")
    documented = documented_events()
    assert not [event for event in events if set(event) - documented[event["event"]]]
    watched = finish(start(head, here, "watch", str(out)), 0)
    assert watched.strip().splitlines()[-1].startswith("[run] finished in")

    # What the cluster refuses is not tried again.
    text = finish(start(head, here, *sent, "--retries", "3", "--set", "data=/nowhere/at/all"), 2)
    assert "sent-3: was refused on the cluster" in text
    assert "sent-4" not in text


def test_who_stops_waiting_leaves_the_job_alone(tmp_path: Path, student: Path, head: Head) -> None:
    here, out = tmp_path / "here", tmp_path / "shared" / "run"
    write_job(here, student, "tokens_per_s: 5")
    endless = ["--set", "strategy.rows=4000"]  # most of an hour: it must not end by itself before it is left
    named = ["--out", str(out), "--set", "name=left", *endless]
    process = start(head, here, "submit", "job.yaml", "--address", head.dashboard, *named)
    shown = wait_for_metric(head, "ray_s3ray_output_tokens_total{", 'run="left"')
    assert 'stage="seed"' in shown
    process.send_signal(signal.SIGINT)
    text = finish(process, 130)
    assert "left-1 goes on; nobody waits for it any more" in text
    assert not RunStore(out).has("metrics.json")
    assert RunStore(out).is_held()
    stop = next(line for line in text.splitlines() if "ray job stop" in line).partition("ray ")[2].split()
    subprocess.run([RAY, *stop], env=head.environment | {"RAY_AUTH_MODE": "token"}, timeout=WAIT_S, check=True)
    assert not RunStore(out).is_held()


MINE = """
from dataclasses import replace
from s3ray.generator.engines.fake import FakeEngine
from s3ray.strategies.zerogen import ZeroGen

class Half(ZeroGen):
    def __init__(self, config):
        super().__init__(config.model_copy(update={"rows": config.rows // 2}))

class Shouting(FakeEngine):
    async def generate(self, request_id, prompt, *, seed, max_tokens):
        written = await super().generate(request_id, prompt, seed=seed, max_tokens=max_tokens)
        return replace(written, text=written.text.upper())
"""


def test_a_strategy_and_an_engine_of_another_package_run(tmp_path: Path, student: Path, head: Head) -> None:
    """Workers import from where the driver was started, and from nowhere else that only its machine knows."""
    write_job(tmp_path, student, "tokens_per_s: 4000")
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "mine.py").write_text(MINE)
    own = ["--set", "strategy.name=my_package.mine:Half", "--set", "generator.engine=my_package.mine:Shouting"]
    own += ["--set", f"cluster.address={head.address}"]
    finish(start(head, tmp_path, "run", "job.yaml", "--out", "run", *own), 0)
    accepted = RunStore(tmp_path / "run").read_table("rounds/0/accepted.parquet")
    assert accepted.num_rows == 20
    assert all(text.isupper() for text in accepted["text"].to_pylist())

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["run", str(tmp_path / "job.yaml"), "--out", str(elsewhere / "run"), *own]
    words += ["--set", f"task={tmp_path / 'mine/task.yaml'}"]
    text = finish(start(head, elsewhere, *words, code=tmp_path), 2)
    assert "my_package.mine cannot be imported here (ModuleNotFoundError" in text


def wait_for_metric(head: Head, *parts: str) -> str:
    """The line of the page that Prometheus reads which has all these parts, once there is one."""
    deadline = time.monotonic() + WAIT_S
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics_port}/metrics", timeout=10) as answer:
            lines = str(answer.read().decode()).splitlines()
        found = [line for line in lines if all(part in line for part in parts)]
        if found:
            return found[0]
        assert time.monotonic() < deadline, [line for line in lines if "s3ray" in line]
        time.sleep(0.5)
