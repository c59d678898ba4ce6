import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from s3ray.tasks import Task, load_task
from tests.tasks.samples import ANSWERS, TOPICS


@pytest.fixture
def topics() -> dict[str, Any]:
    """A small classification spec, to change at will."""
    return copy.deepcopy(TOPICS)


@pytest.fixture
def answers() -> dict[str, Any]:
    """A small span spec, to change at will."""
    return copy.deepcopy(ANSWERS)


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[[dict[str, Any]], Task]:
    def make(spec: dict[str, Any]) -> Task:
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
        return load_task(str(path))

    return make
