"""What every test needs: a quiet, offline, single-threaded process, and a Ray for each file of tests that ask for one.

The environment is set when pytest reads this file, before a test module imports torch, Ray or vLLM.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.cluster.heads import Head, running_head

os.environ |= {
    "OMP_NUM_THREADS": "1",  # several engines and workers share two cores
    "OMP_WAIT_POLICY": "passive",  # threads that spin while they wait keep others from working
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",  # no test depends on a token that lies in the home folder, or puts one there
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less for each student; no node here announces its end
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # processes that nobody asked for cost a second each
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core runs the model itself, as on one GPU: a process less
    "VLLM_NO_USAGE_STATS": "1",
}

# The processes of these tests share what s3ray and vLLM keep, with each other and with nobody else.
CACHE = Path(os.environ.get("S3RAY_TEST_CACHE") or tempfile.mkdtemp(prefix="s3ray-tests-"))
os.environ |= {
    "S3RAY_TEST_CACHE": str(CACHE),
    "S3RAY_CACHE": str(CACHE / "s3ray"),
    "VLLM_CACHE_ROOT": str(CACHE / "vllm"),
}

# The same cases on every machine, and no limit that a busy machine breaks.
settings.register_profile("s3ray", deadline=None, derandomize=True)
settings.load_profile("s3ray")

LONGEST = (
    "tests/docs/test_local_cluster.py",
    "tests/cluster/test_run.py",
    "tests/cluster/test_pretend_gpus.py",
    "tests/cluster/test_chaos.py",
    "tests/student/test_ray_trainer.py",
    "tests/engine/test_vllm.py",
    "tests/cluster/test_submit.py",
    "tests/cluster/test_swap.py",
    "tests/cluster/test_compare.py",
    "tests/engine",
    "tests/docs/test_commands.py::test_pages_with_a_cluster[docs/bench.md]",
    "tests/docs/test_commands.py::test_pages_with_a_cluster[docs/operations.md]",
    "tests/docs/test_python.py",
    "tests/docs/test_commands.py::test_pages_with_a_cluster",
)
"""What takes minutes begins first, so that the processes among which tests are divided end together."""
ONE_BY_ONE = (
    "tests/cluster/test_bench.py",
    "tests/cluster/test_chaos.py",
    "tests/cluster/test_compare.py",
    "tests/cluster/test_submit.py",
    "tests/docs/test_commands.py::test_pages_with_a_cluster",
)
"""Tests that share nothing with their neighbours but a head, which every process has once."""
APART = tuple(
    f"tests/cluster/test_pretend_gpus.py::test_{name}"
    for name in ("engines_sleep", "two_engines_that_share", "quarters_of_gpus")
)
"""The half of a long file that another process may take, with a cluster of its own."""


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the process that the others are started by
        shutil.rmtree(CACHE, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files in which no test needs Ray or an engine are not read where only such tests run: imports take seconds."""
    if config.option.markexpr != "ray or engine" or not collection_path.name.startswith("test_"):
        return None
    return None if re.search(r"\bmark\.(ray|engine)\b", collection_path.read_text(encoding="utf-8")) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(LONGEST) if item.nodeid.startswith(name)), len(LONGEST))

    items.sort(key=place)


class InFiles(LoadFileScheduling):  # type: ignore[misc]
    """Each process of pytest-xdist takes whole files, whose tests share what is made once, or single tests."""

    def _split_scope(self, nodeid: str) -> str:
        scope = nodeid if nodeid.startswith(ONE_BY_ONE) else str(super()._split_scope(nodeid))
        return f"{scope}, second half" if nodeid.startswith(APART) else scope


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> InFiles:
    return InFiles(config, log)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head with four CPUs, started as people do."""
    with running_head() as running:
        yield running


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
