"""Whose Ray it is: one that was open before stays open, one that s3ray started or joined is closed."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray

from s3ray import cluster
from s3ray.cluster import connected, joined, start_local
from s3ray.errors import InputError
from s3ray.stopping import heard_signals
from tests.cluster.heads import free_port
from tests.test_addresses import GRPC, answering

pytestmark = pytest.mark.ray


def test_a_ray_that_was_started_is_closed_however_the_block_ends() -> None:
    with joined("local") as found:
        assert found is None
        assert not ray.is_initialized()

    def fail() -> None:
        with connected("local") as words:
            assert words == "on a Ray cluster started on this machine"
            assert ray.is_initialized()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not ray.is_initialized()


def test_a_cluster_of_another_user_that_nobody_named_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid():
        pytest.skip("only root can start a process as somebody else")
    raylet = Path(tempfile.mkdtemp(dir="/tmp")) / "raylet"  # a process that is called as Ray's node is
    raylet.parent.chmod(0o755)
    raylet.symlink_to("/bin/sh")
    (tmp_path / "ray").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "")
    with answering(GRPC) as address:
        (tmp_path / "ray/ray_current_cluster").write_text(address)
        command = [str(raylet), "-c", "read line", f"--gcs-address={address}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, user=54_321) as node:
            with pytest.raises(InputError) as refused, joined("auto"):
                pytest.fail("joined it")
            node.communicate(b"")
    shutil.rmtree(raylet.parent)
    text = str(refused.value)
    assert f"cluster.address: would join the Ray cluster at {address}, started by user 54321 at 20" in text
    assert f"--set cluster.address={address}" in text
    assert "--set cluster.address=local" in text


def test_a_cluster_that_is_gone_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"127.0.0.1:{free_port()}"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(gone)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "")
    with joined("auto") as found:
        assert found is None, "what `ray start` left behind is no cluster"
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(InputError, match=r"^RAY_ADDRESS: nothing listens there"), joined("auto"):
        pytest.fail("joined it")


def test_a_ray_of_ours_gets_a_short_folder_and_a_token_and_leaves_signals_to_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    for name, value in {"TMPDIR": long, "RAY_TMPDIR": "", "HOME": tmp_path / "nowhere"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    told: dict[str, Any] = {}

    def init(**settings: Any) -> None:
        told.update(settings, token=os.environ.get("RAY_AUTH_TOKEN", ""))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    monkeypatch.setattr(ray, "init", init)
    with heard_signals() as stops:
        assert start_local().startswith("on a Ray cluster started on this machine; TMPDIR is too long for sockets")
        assert signal.getsignal(signal.SIGTERM) is stops
    assert len(told["_temp_dir"]) <= 40
    assert len(told["token"]) == 64


def test_whatever_ray_raises_is_told_with_the_address_that_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(cluster, "GcsClient", fail)
    with pytest.raises(
        InputError, match=r"cluster\.address: Ray cannot be started on this machine: AF_UNIX(.|\n)*TMPDIR"
    ):
        start_local()
    monkeypatch.setenv("RAY_ADDRESS", "")
    with (
        answering(GRPC) as address,
        pytest.raises(InputError, match=r"cluster\.address: the Ray cluster cannot be joined: AF_UNIX"),
        joined(address),
    ):
        pytest.fail("joined it")


def test_a_ray_that_was_open_is_used_and_stays_open(local_ray: None) -> None:
    """A whole run within one: tests/docs/test_python.py."""
    address = ray.get_runtime_context().gcs_address
    with connected("local") as words:
        assert words == f"on the Ray cluster at {address}"
    assert ray.get(ray.put(1)) == 1, "it works on"
