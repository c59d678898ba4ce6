"""Pages that start a cluster on the reader's machine are followed as the others are (test_commands.py)."""

from pathlib import Path

import pytest

from tests.cluster.heads import free_port
from tests.docs.following import follow_page, starts_its_own
from tests.docs.pages import PAGES, Command, name_of
from tests.docs.world import World


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if starts_its_own(page)], ids=name_of)
def test_pages_that_start_a_cluster(page: Path, folder: Path, student: Path) -> None:
    ports = {"S3RAY_LOCAL_PORT": str(free_port()), "S3RAY_LOCAL_DASHBOARD": str(free_port())}
    world = World(folder, student, {"S3RAY_LOCAL_DIR": str(folder / "local"), **ports})
    try:
        follow_page(page, world)
    finally:
        if (folder / "local" / "nodes").exists():  # what failed before its `stop`
            world.follow([Command(text="cluster/local.sh stop")])
