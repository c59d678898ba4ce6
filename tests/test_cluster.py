"""Whose Ray it is: one that was open before stays open, one that s3ray started or joined is closed."""

from pathlib import Path

import pytest
import ray

import s3ray
from s3ray.cluster import connected, joined, occupancy
from s3ray.storage.run_folder import RunStore
from tests.cluster.test_run import write_job
from tests.models import make_bert

pytestmark = pytest.mark.ray


def test_a_ray_that_was_started_is_closed_however_the_block_ends() -> None:
    with joined("local") as found:
        assert found is None
        assert not ray.is_initialized()

    def fail() -> None:
        with connected("local") as words:
            assert words == "on a Ray cluster started on this machine"
            assert ray.is_initialized()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not ray.is_initialized()


def test_a_ray_that_was_open_is_used_and_stays_open(local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    job = write_job(tmp_path, make_bert(tmp_path / "student"), engines=1)
    said: list[str] = []
    s3ray.run(job, out=tmp_path / "run", on_note=said.append)
    address = ray.get_runtime_context().gcs_address
    assert said == [f"on the Ray cluster at {address}"]
    assert RunStore(tmp_path / "run").students() == [0, 1]
    assert ray.get(ray.put(1)) == 1, "it works on"
    assert not occupancy("CPU").held, "nothing of the run is left in it"
