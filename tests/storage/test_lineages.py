"""Lineages: a fresh start goes beside what is there, and the next start goes on with the newest."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from s3ray.errors import InputError
from s3ray.storage.lineages import Lineage, choose, lineage_of
from s3ray.storage.local import join
from s3ray.storage.run_folder import RunStore

SETTINGS: dict[str, Any] = {"task": "imdb", "seed": 0}


@pytest.fixture(params=["local", "memory"])
def first(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "job") if request.param == "local" else f"memory://{uuid.uuid4().hex}/runs/job"


def begin(first: str, *, fresh: bool, settings: dict[str, Any] = SETTINGS) -> str:
    """What `s3ray run` does first; returns the name of the folder that it works in."""
    place, lineage = choose(first, fresh=fresh)
    store = RunStore(place)
    store.check(settings)
    with store.lock():
        store.create(settings, "", lineage=lineage.as_dict())
    assert store.name == lineage.name
    return store.name


def test_starts_go_on_with_the_newest_lineage_and_fresh_begins_another(first: str) -> None:
    assert begin(first, fresh=False) == "job"
    assert begin(first, fresh=False) == "job"
    assert begin(first, fresh=True, settings=SETTINGS | {"seed": 1}) == "job.2"
    assert begin(first, fresh=False, settings=SETTINGS | {"seed": 1}) == "job.2"
    with pytest.raises(InputError, match="--fresh"):
        begin(first, fresh=False)
    assert begin(first, fresh=True) == "job.3"
    identity = RunStore(join(first, "../job.3") if "://" not in first else f"{first}.3").identity()
    assert identity["lineage"] == {"of": "job", "number": 3, "parent": "job.2"}
    assert RunStore(first).identity()["settings"] == SETTINGS, "an old lineage is never touched"


def test_the_first_start_may_be_a_fresh_one(first: str) -> None:
    assert begin(first, fresh=True) == "job"


def test_what_only_looks_like_a_lineage_is_passed_over(first: str) -> None:
    begin(first, fresh=False)
    other = RunStore(f"{first}.2")  # a run whose job is called job.2
    other.create(SETTINGS, "", lineage={"of": "job.2", "number": 1, "parent": None})
    RunStore(f"{first}.4").write_text("thesis.txt", "years of work")
    assert begin(first, fresh=False) == "job"
    assert begin(first, fresh=True) == "job.5"
    assert begin(f"{first}.2", fresh=False) == "job.2"


def test_another_run_beside_it_is_no_parent(first: str) -> None:
    RunStore(f"{first}.2").create(SETTINGS, "", lineage={"of": "job.2", "number": 1, "parent": None})
    assert choose(first, fresh=False) == (first, Lineage(of="job", number=1, parent=None))
    assert choose(first, fresh=True)[1] == Lineage(of="job", number=3, parent=None)


def test_a_fresh_start_that_was_killed_at_once_does_not_count(tmp_path: Path) -> None:
    first = str(tmp_path / "job")
    begin(first, fresh=False)
    with RunStore(f"{first}.2").lock():
        pass
    assert begin(first, fresh=False) == "job"
    assert begin(first, fresh=True) == "job.2"


def test_a_bucket_is_no_place_for_a_run() -> None:
    with pytest.raises(InputError, match="is a bucket"):
        choose("memory://bucket", fresh=False)


def test_a_file_url_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    place, _ = choose(join(tmp_path.as_uri(), "job"), fresh=False)
    assert RunStore(place).folder == tmp_path / "job"
    assert RunStore(f"{tmp_path.as_uri()}/job").folder == tmp_path / "job"


def test_a_copied_folder_is_the_first_of_its_own(tmp_path: Path) -> None:
    begin(str(tmp_path / "job"), fresh=False)
    begin(str(tmp_path / "job"), fresh=True)
    (tmp_path / "job.2").rename(tmp_path / "kept")
    assert lineage_of(RunStore(tmp_path / "kept")) == Lineage(of="kept", number=1, parent=None)
    assert begin(str(tmp_path / "kept"), fresh=False) == "kept"
    assert begin(str(tmp_path / "kept"), fresh=True) == "kept.2"
