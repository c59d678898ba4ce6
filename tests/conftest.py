"""What every test needs: a quiet, offline, single-threaded process, and a Ray for each file of tests that ask for one.

The environment is set when pytest reads this file, before a test module imports torch, Ray or vLLM.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ |= {
    "OMP_NUM_THREADS": "1",  # several engines and workers share two cores
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait keep others from working
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # so often Ray Train looks whether a training has ended
    "VLLM_NO_USAGE_STATS": "1",
}

# The same cases on every machine, and no limit that a busy machine breaks.
settings.register_profile("s3ray", deadline=None, derandomize=True)
settings.load_profile("s3ray")

LONGEST = (
    "docs/test_commands",
    "cluster/test_chaos",
    "cluster/test_run",
    "docs/test_local_cluster",
    "student/test_trainer",
    "engine/test_language_model",
    "engine/test_vllm",
    "cluster/test_compare",
    "cluster/test_submit",
)
"""Files that take minutes. They begin first, so that the processes among which files are divided end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"tests/{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this process alone: four logical CPUs, no GPU, no dashboard."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
