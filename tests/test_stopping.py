"""Commands as a shell runs them: signals end them in order; no reader that leaves and no terminal breaks them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3ray import api
from s3ray.cli import main
from s3ray.errors import StoppedError
from s3ray.launch.run import recorded_failures
from s3ray.stopping import heard_signals, why_stopped
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog, read_events

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 's3ray'; from s3ray.cli import main; main()"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, env=os.environ | environment)


@pytest.fixture(autouse=True)
def hears_signals() -> Iterator[None]:
    """Tests in the background of a shell were started to ignore Ctrl-C, those under nohup to ignore SIGHUP."""
    before = [
        (number, signal.signal(number, handler))
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL))
    ]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_is_an_exception_that_names_it(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as stopped, heard_signals() as stops:
        os.kill(os.getpid(), number)
    assert stopped.value is stops.error
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is before


def test_an_interrupt_that_a_library_raises_for_a_signal_keeps_its_name() -> None:
    with heard_signals() as stops:
        with pytest.raises(StoppedError):
            os.kill(os.getpid(), signal.SIGTERM)
        assert why_stopped(KeyboardInterrupt()) == str(stops.error) == "stopped by SIGTERM"
    assert why_stopped(KeyboardInterrupt()) == "stopped by Ctrl-C"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_so_and_ends_with_the_code_of_its_signal(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["s3ray", "plan", "job.yaml"])
    monkeypatch.setattr(api, "load_job", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert f"s3ray: {StoppedError(number)}" in capsys.readouterr().err


def test_a_run_that_is_stopped_keeps_why_in_its_events(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.create({}, "", requests={}, lineage={}, task={})
    with pytest.raises(StoppedError), recorded_failures(store, EventLog(store, "job", 1)):
        raise StoppedError(signal.SIGTERM)
    [event] = read_events(store)
    assert (event.kind, getattr(event, "problem", "")) == ("run_stopped", "stopped by SIGTERM")


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal\nfrom s3ray.stopping import heard_signals\n"
        "with heard_signals():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT)\n        print('still here')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (143, b"")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with heard_signals() as stops:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stops.error is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_ends_a_command_quietly(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # `| head` has left already
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run([*COMMAND, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False, env=environment)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_terminal_without_unicode_shows_what_it_can(tmp_path: Path) -> None:
    job = tmp_path / "prüfung.yaml"
    job.write_text("name: ж\n", encoding="utf-8")
    ended = run("plan", str(job), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ended.returncode == 2
    assert b"Traceback" not in ended.stderr
    assert b"pr?fung.yaml" in ended.stderr
