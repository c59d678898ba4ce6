"""Where pages are followed, and with which student."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import make_bert


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("student"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because Ray puts sockets below it."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
