from pathlib import Path

import pytest

from s3ray.storage.run_folder import RunStore
from tests.monitor.run_folder import Clock, write_run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def finished(tmp_path: Path) -> RunStore:
    """A finished run of strategy s3."""
    return write_run(tmp_path / "quickstart")
