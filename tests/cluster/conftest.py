"""Clusters of one machine, which tests share."""

from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster


@pytest.fixture(scope="module")
def pretend_gpus() -> Iterator[Cluster]:
    """A node with two pretend GPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def address(pretend_gpus: Cluster) -> Iterator[str]:
    """Where that node is; whoever joins it has left it when the test ends."""
    yield pretend_gpus.address
    ray.shutdown()
