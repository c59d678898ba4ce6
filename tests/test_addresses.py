"""Which addresses a cluster is looked for at: each wrong one is refused within seconds, and what named it is blamed."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3ray import addresses
from s3ray.addresses import Named, check_address, host_and_port, is_cluster, starter_of
from s3ray.errors import InputError
from tests.cluster.heads import free_port


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that says the same to everybody; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


GRPC = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)) + bytes(6)


def refusal(address: str, **named: str) -> str:
    with pytest.raises(InputError) as refused:
        check_address(Named(address=address, **named))
    return str(refused.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:8265", "s3ray submit JOB.yaml --address http://127.0.0.1:8265"),
        ("https://head.example/ray", "dashboard"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("head", "is not an address"),
        ("head:", "is not an address"),
        (":6379", "is not an address"),
        ("head:port", "is not an address"),
        ("head:99999", "is not an address"),
        ("user@head:6379", "is not an address"),
        ("head:6379/path", "is not an address"),
        ("", "is not an address"),
        ("no.such.host.invalid:6379", "nothing listens there"),
    ],
)
def test_what_is_no_address_of_a_cluster_is_refused_in_its_own_words(address: str, says: str) -> None:
    assert says in refusal(address, field="cluster.address")


def test_a_silent_address_is_told_at_once_and_the_variable_is_blamed() -> None:
    text = refusal(f"127.0.0.1:{free_port()}", where="RAY_ADDRESS")
    assert text.startswith("RAY_ADDRESS: nothing listens there: Connection refused")
    assert "unset RAY_ADDRESS" in text
    assert "--set cluster.address=local" in text


def test_what_answers_otherwise_than_a_cluster_is_named() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web, answering(b"-ERR unknown\r\n") as redis:
        assert "a web server (Ray's dashboard, say)" in refusal(web, field="cluster.address")
        assert "something that is no Ray" in refusal(redis, field="cluster.address")
        assert not is_cluster(web)
    with answering(GRPC) as ray:
        check_address(Named(address=ray))
        assert is_cluster(ray)


def test_a_listener_that_never_speaks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "WAIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "no Ray cluster answers" in refusal(f"127.0.0.1:{server.getsockname()[1]}")


def test_addresses_have_two_parts() -> None:
    assert host_and_port("head:6379") == ("head", 6379)
    assert host_and_port("[::1]:6379") == ("::1", 6379)
    assert host_and_port("[::1:6379") is None


def test_whose_a_cluster_is_can_be_seen(tmp_path: Path) -> None:
    """A process that is called as Ray's node is; the test starts no Ray."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sh")
    words = [str(raylet), "-c", "echo runs; read line", "--gcs-address=10.0.0.1:6379"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        assert node.stdout
        assert node.stdout.readline() == b"runs\n"  # for a moment, a new program has no words in /proc
        found = starter_of("10.0.0.1:6379")
        node.communicate(b"\n")
    assert found is not None
    assert not found.is_other
    assert found.user == addresses.user_name(os.geteuid())
    assert abs(found.since - raylet.lstat().st_mtime) < 60
    assert starter_of("10.0.0.1:6379") is None


def test_a_user_without_a_name_is_a_number() -> None:
    assert addresses.user_name(54_321_987) == "54321987"
