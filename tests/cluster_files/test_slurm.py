"""The Slurm script with stand-ins for Slurm and Ray: its directives, what it starts, and what signals make of it."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ray.scripts import scripts
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts
from tests.cluster_files.files import CLUSTER, ROOT, Command

SCRIPT = CLUSTER / "slurm" / "s3ray.sbatch"
STUBS = {
    "scontrol": 'if [[ $1 == show ]]; then printf "n0\\nn1\\n"; else echo "$@" >> "$STUBS/scontrol"; fi',
    "ray": 'echo "$@" "$RAY_AUTH_MODE" >> "$STUBS/ray"',
    # One step asks for an address; the other is the run, which ends by itself or when it is told to.
    "srun": """
if [[ "$*" == *hostname* ]]; then echo "$@" >> "$STUBS/asked"; echo "10.0.0.7 127.0.0.1 "; exit; fi
trap 'echo ended >> "$STUBS/ended"; exit 143' TERM
printf '%s\n' "$VLLM_CACHE_ROOT" "$TRITON_CACHE_DIR" "$FLASHINFER_WORKSPACE_BASE" "$CUDA_CACHE_PATH" > "$STUBS/caches"
printf '%q ' "$@" > "$STUBS/part"; mv "$STUBS/part" "$STUBS/srun"
if [[ -n ${STUB_STATUS:-} ]]; then exit "$STUB_STATUS"; fi
while :; do sleep 0.05; done""",
}


def directives() -> dict[str, str]:
    """The lines that sbatch reads: those before the first command."""
    head = SCRIPT.read_text(encoding="utf-8").split("\nset -", 1)[0]
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", head, re.MULTILINE)
    assert len(found) == SCRIPT.read_text(encoding="utf-8").count("#SBATCH")
    return dict(found)


def test_directives_are_those_of_sbatch() -> None:
    found = directives()
    shapes = {
        "job-name": r"\w+",
        "nodes": r"\d+",
        "ntasks-per-node": "1",  # every task starts a node of Ray
        "gpus-per-node": r"\d+",
        "cpus-per-task": r"\d+",
        "mem": "0",
        "exclusive": "",  # symmetric-run stops every Ray of the user on the node
        "time": r"\d\d:\d\d:\d\d",
        "requeue": "",
        "open-mode": "append",  # else a second attempt writes over the log of the first
        "signal": r"B:USR1@\d{3}",
        "output": r"\S*%j\S*",
    }
    assert set(found) == set(shapes)
    for name, shape in shapes.items():
        assert re.fullmatch(shape, found[name]), name


class Slurm:
    """A batch job on two nodes, with the stand-ins before everything else in PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bin").mkdir()
        for name, text in STUBS.items():
            (root / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (root / "bin" / name).chmod(0o755)
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_", "S3RAY_"))}
        self.env |= {
            "PATH": f"{root}/bin:{self.env['PATH']}",
            "STUBS": str(root),
            "SLURM_SUBMIT_DIR": str(root),
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "n[0-1]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "64",
        }

    def start(self, *args: str, **env: str) -> subprocess.Popen[bytes]:
        command = ["bash", str(SCRIPT), *args]
        with (self.root / "out").open("w") as out:
            process = subprocess.Popen(command, env=self.env | env, stdout=out)
        deadline = time.monotonic() + 20
        while not (self.root / "srun").exists():
            assert process.poll() is None or (self.root / "srun").exists()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    def read(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def test_it_starts_ray_on_all_nodes_and_the_run_on_the_first(slurm: Slurm) -> None:
    assert slurm.start(STUB_STATUS="0").wait(20) == 0
    assert slurm.read("ray") == "get-auth-token --generate token\n"
    assert "--nodelist=n0" in slurm.read("asked")
    args = shlex.split(slurm.read("srun"))
    assert args[args.index("ray") :][:2] == ["ray", "symmetric-run"]
    assert args[:2] == ["--wait=60", "--cpus-per-task=64"]
    separator = args.index("--")
    of_ray, entrypoint = args[args.index("symmetric-run") + 1 : separator], args[separator + 1 :]
    params = symmetric_run.make_context("symmetric-run", list(of_ray)).params
    assert params["address"] == f"10.0.0.7:{20000 + 123456 % 10000}"
    assert params["min_nodes"] == 2
    start = scripts.cli.commands["start"].make_context("start", curate_and_validate_ray_start_args(of_ray))
    assert start.params["num_cpus"] == 64
    assert entrypoint[:2] == ["s3ray", "run"]
    command = Command(where=SCRIPT.name, name="run", args=tuple(entrypoint[2:]), folder=ROOT)
    (config,) = command.configs()
    shape = directives()
    num_gpus, num_cpus = int(shape["gpus-per-node"]), int(shape["cpus-per-task"])
    there = [
        NodeFacts(node_id=f"n{place}", num_cpus=num_cpus, num_gpus=num_gpus) for place in range(int(shape["nodes"]))
    ]
    found = plan_placement(config, there)
    assert len(found.engines) == found.num_wanted == sum(node.num_gpus for node in there)


def test_job_and_folder_are_what_sbatch_is_given(slurm: Slurm) -> None:
    assert slurm.start("jobs/my job.yaml", "/shared/runs/a b", STUB_STATUS="0").wait(20) == 0
    assert shlex.split(slurm.read("srun"))[-4:] == ["run", "jobs/my job.yaml", "--out", "/shared/runs/a b"]


def test_compiled_code_stays_on_the_node_and_off_the_shared_home(slurm: Slurm) -> None:
    assert slurm.start(STUB_STATUS="0", TMPDIR="/scratch", HOME="/shared/home").wait(20) == 0
    caches = slurm.read("caches").split()
    assert caches == [f"/scratch/s3ray-123456/{name}" for name in ("vllm", "triton", "flashinfer", "cuda")]


def test_a_folder_on_the_nodes_disks_keeps_compiled_code_from_run_to_run(slurm: Slurm) -> None:
    assert slurm.start(STUB_STATUS="0", S3RAY_NODE_CACHE="/local/s3ray").wait(20) == 0
    assert slurm.read("caches").split()[0] == "/local/s3ray/vllm"


@pytest.mark.parametrize("status", [2, 3])
def test_a_run_that_ends_badly_by_itself_is_not_queued_again(slurm: Slurm, status: int) -> None:
    assert slurm.start(STUB_STATUS=str(status)).wait(20) == status
    assert slurm.read("scontrol") == ""


def test_shortly_before_the_end_of_its_time_it_queues_itself_again(slurm: Slurm) -> None:
    process = slurm.start()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 143
    assert slurm.read("ended") == "ended\n"
    assert slurm.read("scontrol") == "requeue 123456\n"


def test_not_for_ever(slurm: Slurm) -> None:
    process = slurm.start(SLURM_RESTART_COUNT="20")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 3
    assert "not queued again" in slurm.read("out")
    assert slurm.read("scontrol") == ""


def test_preempted_or_cancelled_it_ends_its_step_and_leaves_the_rest_to_slurm(slurm: Slurm) -> None:
    process = slurm.start()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    assert slurm.read("ended") == "ended\n"
    assert slurm.read("scontrol") == ""
