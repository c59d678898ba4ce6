"""Whose Ray it is: one that was open before stays open, one that s3ray started or joined is closed."""

import io
from pathlib import Path

import pytest
import ray
from rich.console import Console

from s3ray.cluster import connected, joined, occupancy
from s3ray.config.load import load_config
from s3ray.launch.run import run_job
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
    said = io.StringIO()
    run_job(load_config(job), str(tmp_path / "run"), Console(file=said, width=200))
    address = ray.get_runtime_context().gcs_address
    assert f"on the Ray cluster at {address}" in said.getvalue()
    assert RunStore(tmp_path / "run").students() == [0, 1]
    assert ray.get(ray.put(1)) == 1, "it works on"
    assert not occupancy("CPU").held, "nothing of the run is left in it"
