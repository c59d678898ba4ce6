"""What Ray wants of the environment and does not find there is made up for, or the variable to blame is named."""

import os
import pwd
import socket
from pathlib import Path
from typing import NoReturn

import pytest

from s3ray.api import bring_ray_token
from s3ray.environment import bring_own_token, proxy_between, temporary_folder
from s3ray.errors import InputError

SOCKET = "session_2026-11-29_06-30-08_123456_1234567/sockets/plasma_store"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "")
            monkeypatch.delenv(spelling)


@pytest.mark.parametrize("name", ["x" * 80, "with a blank", "ü" * 12, "it's $HOME"])
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_is_too_long_for_sockets_gets_a_short_second_name(
    tmp_path: Path, name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / name / ("y" * 40)
    place.mkdir(parents=True)
    monkeypatch.setenv(variable, str(place))
    folder, note = temporary_folder()
    path = Path(folder, SOCKET)
    assert len(os.fsencode(path)) <= 107
    assert folder.isascii()
    assert " " not in folder
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert (place / "ray" / SOCKET).exists(), "what is written goes where the user wants it"
    assert f"{variable} is too long for sockets" in note
    assert os.environ["TMPDIR"] == str(Path(folder).parent), "engines and workers put sockets there too"


def test_a_short_folder_is_used_as_it_is() -> None:
    assert temporary_folder() == ("/tmp/ray", "")


def test_a_folder_with_blanks_gets_a_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path("/tmp") / "s3ray a b"
    monkeypatch.setenv("TMPDIR", str(place))
    folder, note = temporary_folder()
    assert " " not in folder
    assert "has signs that Ray does not take" in note
    (place / "ray").rmdir()
    place.rmdir()


def test_a_folder_that_cannot_be_made_is_blamed_on_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file" / "t"))
    with pytest.raises(InputError, match=r"^TMPDIR: cannot be written: Not a directory \(got .*file/t\)"):
        temporary_folder()


def test_a_ray_of_ours_has_a_token_though_no_home_can_keep_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bring_own_token()
    assert "RAY_AUTH_TOKEN" not in os.environ, "Ray makes one and keeps it in ~/.ray"
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    bring_own_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_user_without_a_home_and_a_name_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(user: int) -> NoReturn:
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    bring_ray_token()
    assert "RAY_AUTH_MODE" not in os.environ, "there is no token that could be sent"
    bring_own_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_between_this_machine_and_itself_is_passed_by(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    for host in ("127.0.0.1", "localhost"):
        assert not proxy_between(f"http://{host}:8265", host)
        assert host in os.environ["no_proxy"].split(",")
    assert "example.org" in os.environ["NO_PROXY"]


def test_a_proxy_between_this_machine_and_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert proxy_between("http://head:8265", "head") == "http_proxy=http://proxy:3128"
    monkeypatch.setenv("no_proxy", "head")
    assert not proxy_between("http://head:8265", "head")
