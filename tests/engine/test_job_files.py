"""Every job file as vLLM resolves it on H100s that nobody has (``tests.platforms.fake_cuda``): nothing is loaded."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.cluster.heads import WAIT_S
from tests.platforms.resolve import PLUGINS, ROOT, SHAPES, jobs

pytestmark = pytest.mark.engine

Answers = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What each job asks for and what vLLM makes of it; a platform is chosen once in a process."""
    file = tmp_path_factory.mktemp("resolved") / "answers.json"
    path = os.pathsep.join([str(ROOT), str(PLUGINS)])
    environment = os.environ | {"PYTHONPATH": path, "VLLM_PLUGINS": "fake_cuda", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "tests.platforms.resolve", str(file)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert process.returncode == 0, process.stderr[-4000:]
    found: Answers = json.loads(file.read_text(encoding="utf-8"))
    return found


def test_every_job_with_a_generator_is_a_configuration_of_vllm(answers: Answers) -> None:
    wanted = {name for name, config in jobs() if config.generator.engine == "vllm"}
    assert set(answers) == wanted
    assert len(wanted) > 20


def test_an_engine_gets_what_the_plan_and_the_job_ask_for(answers: Answers) -> None:
    for name, about in answers.items():
        asked, resolved = about["asked"], about["resolved"]
        assert {key: resolved[key] for key in asked} == asked, name


def test_no_job_gives_up_what_makes_an_engine_fast(answers: Answers) -> None:
    for name, about in answers.items():
        resolved = about["resolved"]
        assert resolved["prefix_caching"], name
        assert resolved["chunked_prefill"], name
        assert resolved["async_scheduling"], name
        assert (resolved["dtype"], resolved["graphs"]) == ("torch.bfloat16", "FULL_AND_PIECEWISE"), name
        # Graphs are captured for the batches that occur, up to the 512 sequences that vLLM captures by default.
        assert resolved["largest_graph"] >= min(512, resolved["max_num_seqs"]), name


def test_the_shapes_that_a_job_may_take_reach_vllm(answers: Answers) -> None:
    shapes = {shape: answers[f"gpu-8.yaml, {shape}"]["resolved"] for shape in SHAPES}
    assert shapes["two GPUs of a node"]["executor"] == "mp"
    assert (shapes["two nodes"]["executor"], shapes["two nodes"]["world_size"]) == ("ray", 16)
    assert shapes["half of a GPU"]["memory"] == pytest.approx(0.45)
    assert [shape for shape, resolved in shapes.items() if resolved["sleeps"]] == list(SHAPES)[-2:]
