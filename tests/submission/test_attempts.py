"""Names of attempts, what their ends mean, and what is said of the environment."""

import pytest

from s3ray.errors import InputError
from s3ray.submission.attempts import End, end_of, environment, next_id


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], "run-1"),
        (["run-1", "run-2"], "run-3"),
        (["run-2", None, "raysubmit_x"], "run-3"),
        (["run-9", "run-10"], "run-11"),
        (["run-x-7", "other-8", "xrun-9", "run-3-old"], "run-1"),
    ],
)
def test_the_next_id_is_free(known: list[str | None], expected: str) -> None:
    assert next_id("run", known) == expected


def test_a_dot_in_a_name_is_a_dot() -> None:
    assert next_id("a.b", ["axb-4"]) == "a.b-1"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, "done"),
        ("STOPPED", None, "stopped"),
        ("FAILED", 2, "refused"),
        ("FAILED", 127, "refused"),
        ("FAILED", 3, "failed"),
        ("FAILED", -9, "failed"),
        ("FAILED", None, "failed"),
    ],
)
def test_only_a_failure_is_worth_another_attempt(status: str, code: int | None, expected: End) -> None:
    assert end_of(status, code) == expected


def test_the_environment_is_what_was_said_and_no_more() -> None:
    known = environment(["AWS_REGION=eu", "OPTIONS=a=b"], ())
    assert known == {"PYTHONUNBUFFERED": "1", "AWS_REGION": "eu", "OPTIONS": "a=b"}


@pytest.mark.parametrize(
    "text", ["HF_TOKEN=hush", "AWS_SECRET_ACCESS_KEY=hush", "db_password=hush", "MY_SERVER=hush", "hush", "a b=hush"]
)
def test_secrets_are_neither_sent_nor_shown(text: str) -> None:
    with pytest.raises(InputError) as caught:
        environment([text], {"MY_SERVER"})
    assert "hush" not in str(caught.value)
