"""What every test needs: a quiet, offline, single-threaded process, and a Ray for each file of tests that ask for one.

The environment is set when pytest reads this file, before a test module imports torch, Ray or vLLM.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ |= {
    "OMP_NUM_THREADS": "1",  # several engines and workers share two cores
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}

# The same cases on every machine, and no limit that a busy machine breaks.
settings.register_profile("s3ray", deadline=None, derandomize=True)
settings.load_profile("s3ray")


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
