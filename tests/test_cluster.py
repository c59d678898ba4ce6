"""Whose Ray it is: one that was open before stays open, one that s3ray started or joined is closed."""

import pytest
import ray

from s3ray.cluster import connected, joined

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


def test_a_ray_that_was_open_is_used_and_stays_open(local_ray: None) -> None:
    """A whole run within one: tests/docs/test_python.py."""
    address = ray.get_runtime_context().gcs_address
    with connected("local") as words:
        assert words == f"on the Ray cluster at {address}"
    assert ray.get(ray.put(1)) == 1, "it works on"
