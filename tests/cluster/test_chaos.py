"""Random schedules of kills on a real cluster of three raylets end in the same data.

That a student is the same whatever is killed: tests/student/test_ray_trainer.py.
"""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_whatever_is_killed_the_data_are_the_same() -> None:
    program = [sys.executable, "-m", "benchmarks.chaos", "--seed", "1", "--schedules", "5"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["schedules"] == 5
    assert set(result["kills"]) >= {"actor", "engine", "node", "driver"}
    assert (result["lost"], result["duplicated"], result["different"], result["unbalanced"]) == (0, 0, 0, 0)
