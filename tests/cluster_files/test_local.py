"""cluster/local.sh with a stand-in for `ray`: what it starts, what it leaves behind, and what it stops."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.scripts import scripts

from tests.cluster_files.files import CLUSTER

# A node that starts at once, has a process below it, and ends when asked, or never, or before it has started.
RAY = """#!/usr/bin/env bash
echo "$@" >> "$(dirname "$0")/calls"
[[ $1 == start ]] || { echo "status of $RAY_ADDRESS $RAY_AUTH_MODE"; exit; }
[[ ${STUB_FAILS:-} != "$2 $3" ]] || { echo "no room here"; exit 1; }
[[ $RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S == 0 && $OMP_WAIT_POLICY == passive ]] || exit 1
if [[ -n ${STUB_STUBBORN:-} ]]; then trap "" TERM; else trap 'kill "$below"; exit' TERM; fi
sleep 300 & below=$!
echo "$below" >> "$(dirname "$0")/below"
echo "Ray runtime started."
wait
[[ -z ${STUB_STUBBORN:-} ]] || sleep 300
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Local:
    """The script in a folder of its own, with the stand-in where it looks for the environment."""

    def __init__(self, root: Path) -> None:
        (root / ".venv" / "bin").mkdir(parents=True)
        (root / "cluster").mkdir()
        self.ray = root / ".venv" / "bin" / "ray"
        self.ray.write_text(RAY)
        self.ray.chmod(0o755)
        self.script = Path(shutil.copy(CLUSTER / "local.sh", root / "cluster"))
        self.folder = root / "state"
        self.ports = (free_port(), free_port())
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "S3RAY_"))}
        self.env |= {
            "S3RAY_LOCAL_DIR": str(self.folder),
            "S3RAY_LOCAL_PORT": str(self.ports[0]),
            "S3RAY_LOCAL_DASHBOARD": str(self.ports[1]),
            "RAY_ADDRESS": "another.example:6379",
        }

    def kill_after(self, seconds: int) -> None:
        text = self.script.read_text()
        assert "\nSTOP_S=30\n" in text
        self.script.write_text(text.replace("STOP_S=30", f"STOP_S={seconds}"))

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.script), *args]
        return subprocess.run(
            command,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def processes(self) -> list[int]:
        """The nodes and what is below them, as they were started."""
        nodes = [int(line.split()[0]) for line in (self.folder / "nodes").read_text().splitlines()]
        return nodes + [int(line) for line in (self.ray.parent / "below").read_text().splitlines()]

    def calls(self) -> list[list[str]]:
        return [shlex.split(line) for line in (self.ray.parent / "calls").read_text().splitlines()]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    found = Local(tmp_path)
    yield found
    if (found.folder / "nodes").exists():
        found.run("stop")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_starts_a_head_and_nodes_with_a_token_and_stops_all_of_them(local: Local) -> None:
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        started = local.run("3")
        assert started.returncode == 0, started.stderr
        started_ones = local.processes()
        assert len(started_ones) == 6
        assert all(lives(pid) for pid in started_ones)
        starts = [scripts.cli.commands["start"].make_context("start", call[1:]).params for call in local.calls()]
        assert [(call["head"], call["num_cpus"], call["num_gpus"], call["block"]) for call in starts] == [
            (True, 2, 2, True),
            (False, 2, 2, True),
            (False, 2, 2, True),
        ]
        head = starts[0]
        assert (head["port"], head["dashboard_port"], head["dashboard_host"]) == (*local.ports, "127.0.0.1")
        assert head["temp_dir"] == str(local.folder / "ray")
        assert {call["address"] for call in starts[1:]} == {f"127.0.0.1:{local.ports[0]}"}
        assert len({call["dashboard_agent_listen_port"] for call in starts}) == 3  # one that is taken takes no jobs

        token = local.folder / "auth_token"
        assert token.stat().st_mode & 0o077 == 0
        assert len(token.read_text()) == 64
        assert local.run("env").stdout.splitlines() == [
            "export RAY_AUTH_MODE=token",
            f"export RAY_AUTH_TOKEN_PATH={token}",
            f"export RAY_ADDRESS=127.0.0.1:{local.ports[0]}",
            f"export RAY_API_SERVER_ADDRESS=http://127.0.0.1:{local.ports[1]}",
        ]
        assert local.run("status").stdout == f"status of 127.0.0.1:{local.ports[0]} token\n"
        again = local.run("2")
        assert again.returncode == 1
        assert "was started" in again.stderr
        assert all(lives(pid) for pid in started_ones)

        stopped = local.run("stop")
        assert stopped.returncode == 0, stopped.stderr
        assert "killing" not in stopped.stdout
        assert not any(lives(pid) for pid in started_ones)
        assert bystander.poll() is None
        assert not token.exists()
        assert local.run("stop").returncode == 1
        assert local.run("env").returncode == 1
    finally:
        bystander.kill()
        bystander.wait()


def test_what_does_not_end_when_asked_is_killed(local: Local) -> None:
    assert local.run("1", STUB_STUBBORN="1").returncode == 0
    started_ones = local.processes()
    local.kill_after(1)
    stopped = local.run("stop")
    assert "killing" in stopped.stdout
    assert not any(lives(pid) for pid in started_ones)


def test_a_node_that_does_not_start_takes_the_others_with_it(local: Local) -> None:
    """And what its predecessor wrote does not count."""
    assert local.run("2").returncode == 0
    assert local.run("stop").returncode == 0
    failed = local.run("2", STUB_FAILS=f"--block --address=127.0.0.1:{local.ports[0]}")
    assert failed.returncode == 1
    assert "node 1 ended" in failed.stderr
    assert "no room here" in failed.stderr
    assert not (local.folder / "nodes").exists()
    assert not any(lives(int(line)) for line in (local.ray.parent / "below").read_text().splitlines())


def test_a_process_that_has_the_number_of_an_ended_node_is_left_alone(local: Local) -> None:
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        local.folder.mkdir()
        (local.folder / "nodes").write_text(f"{bystander.pid} 1\n")
        assert local.run("stop").returncode == 0
        assert bystander.poll() is None
    finally:
        bystander.send_signal(signal.SIGKILL)
        bystander.wait()


def test_a_taken_port_and_wrong_words_are_refused(local: Local) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", local.ports[1]))
        taken.listen()
        refused = local.run("2")
    assert refused.returncode == 1
    assert f"port {local.ports[1]} is taken" in refused.stderr
    assert not local.folder.exists()
    for words in ([], ["0"], ["100"], ["2x"], ["start"]):
        told = local.run(*words)
        assert told.returncode == 2
        assert "cluster/local.sh N" in told.stderr
