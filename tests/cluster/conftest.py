"""Clusters of one machine."""

from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster


@pytest.fixture
def address() -> Iterator[str]:
    """A node with four pretend GPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 4})
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()
