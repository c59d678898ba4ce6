"""Random schedules of kills on a real cluster of three raylets end in the same data and in the same student."""

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def disturb(*options: str) -> dict[str, Any]:
    program = [sys.executable, "-m", "benchmarks.chaos", "--seed", "1", *options]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_whatever_is_killed_the_data_are_the_same() -> None:
    result = disturb("--schedules", "5")
    assert result["schedules"] == 5
    assert set(result["kills"]) >= {"actor", "engine", "node", "driver"}
    assert (result["lost"], result["duplicated"], result["different"], result["unbalanced"]) == (0, 0, 0, 0)


def test_whatever_is_killed_the_student_is_the_same() -> None:
    result = disturb("--schedules", "0", "--train-schedules", "1")
    assert result["train_schedules"] == 1
    assert set(result["kills"]) >= {"train_worker"}
    assert result["different_scores"] == 0
