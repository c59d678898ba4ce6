"""Random schedules of kills on a real cluster of three raylets end in the same data and in the same student."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(1800)
def test_whatever_is_killed_data_and_student_are_the_same() -> None:
    program = [sys.executable, "-m", "benchmarks.chaos", "--schedules", "5", "--train-schedules", "1"]
    done = subprocess.run([*program, "--seed", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["schedules"], result["train_schedules"]) == (5, 1)
    assert set(result["kills"]) >= {"actor", "engine", "node", "driver", "train_worker"}
    assert result["different_scores"] == 0
    assert (result["lost"], result["duplicated"], result["different"], result["unbalanced"]) == (0, 0, 0, 0)
