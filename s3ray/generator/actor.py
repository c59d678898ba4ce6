"""The process around one engine: renders prompts, generates, reads and cleans what was written.

A plain class; ``ray.remote`` is applied where placement is known (``pool``). All traffic is one call, ``exchange``:
requests in, finished outcomes out. It answers as soon as there is something worth sending, or after a short while, so
it is the heartbeat too.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from s3ray.errors import EngineDeadError, RequestRefusedError
from s3ray.generator.engines import make_engine
from s3ray.generator.engines.base import EngineSpec
from s3ray.tasks import Task
from s3ray.types import (
    EngineLimits,
    FailureReason,
    Generation,
    GenerationRequest,
    Outcome,
    OutcomeStatus,
    Rejection,
)

_EXIT_DELAY_S = 0.5
_REPLY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An actor's answer: what it finished since the last one, and why its engine died, if it did."""

    outcomes: tuple[Outcome, ...]
    death: str | None = None


class GeneratorActor:
    """Hosts one engine. Every request that comes in goes out as exactly one outcome, unless the engine dies first."""

    def __init__(self, spec: EngineSpec, task: Task, *, clean: bool, share: int = 0, num_shares: int = 1) -> None:
        """``share`` of ``num_shares``: which part of the node's cores this process may use."""
        _keep_to_own_cores(spec, share, num_shares)
        self._engine = make_engine(spec)
        self._task = task
        self._form = spec.config.prompt_form
        self._clean = clean
        self._name = spec.engine
        self._finished: list[Outcome] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._num_aborts = 0
        self._death: str | None = None

    async def start(self) -> EngineLimits:
        """Load the model; returns the limits that the engine resolved."""
        return await self._engine.start()

    async def exchange(self, requests: Sequence[tuple[GenerationRequest, int]]) -> Exchange:
        """Take requests (each with its attempt number), give back finished outcomes.

        Answers once a quarter of what is under way is finished, at the latest after two seconds. After the engine's
        death it gives back what was finished and ends the process.
        """
        for request, attempt in requests:
            job = asyncio.create_task(self._answer(request, attempt))
            self._running.add(job)
            job.add_done_callback(self._running.discard)
        enough = max(1, len(self._running) // 4)
        deadline = time.monotonic() + _REPLY_AFTER_S
        num_aborts = self._num_aborts
        while self._running and self._death is None and len(self._finished) < enough:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        if num_aborts != self._num_aborts:
            return Exchange(outcomes=())  # nobody waits for this answer; what is finished belongs to a later call
        outcomes, self._finished = tuple(self._finished), []
        if self._death is not None:
            # The process must end, and not through ray.actor.exit_actor: a dead engine never comes back inside it.
            asyncio.get_running_loop().call_later(_EXIT_DELAY_S, os._exit, 1)
        return Exchange(outcomes=outcomes, death=self._death)

    async def abort(self) -> None:
        """Give up everything under way: the stage needs no more."""
        self._num_aborts += 1
        self._finished = []
        running = list(self._running)
        for job in running:
            job.cancel()
        self._changed.set()
        await asyncio.gather(*running, return_exceptions=True)

    async def close(self) -> None:
        """Stop the engine."""
        await self.abort()
        await self._engine.close()

    async def _answer(self, request: GenerationRequest, attempt: int) -> None:
        started = time.monotonic()
        try:
            prompt = self._task.render(request, self._form)
            generation = await self._engine.generate(request.id, prompt, request.seed)
        except EngineDeadError as error:
            self._death = self._death or str(error)
        except RequestRefusedError as error:
            self._finished.append(self._refused(request, attempt, str(error)))
        else:
            self._finished.append(self._read(request, generation, attempt, time.monotonic() - started))
        self._changed.set()

    def _read(self, request: GenerationRequest, generation: Generation, attempt: int, seconds: float) -> Outcome:
        read = self._task.read(request, generation.text, generation.finish_reason, clean=self._clean)
        is_rejected = isinstance(read, Rejection)
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.REJECTED if is_rejected else OutcomeStatus.ACCEPTED,
            reason=read.reason.value if isinstance(read, Rejection) else "",
            detail=read.detail if isinstance(read, Rejection) else "",
            text="" if isinstance(read, Rejection) else read.text,
            raw=generation.text,
            finish_reason=generation.finish_reason,
            num_prompt_tokens=generation.num_prompt_tokens,
            num_cached_tokens=generation.num_cached_tokens,
            num_output_tokens=generation.num_output_tokens,
            engine=self._name,
            attempt=attempt,
            seconds=seconds,
        )

    def _refused(self, request: GenerationRequest, attempt: int, detail: str) -> Outcome:
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.FAILED,
            reason=FailureReason.REFUSED_BY_ENGINE.value,
            detail=detail,
            engine=self._name,
            attempt=attempt,
        )


def _keep_to_own_cores(spec: EngineSpec, share: int, num_shares: int) -> None:
    """Bind this process and its children to its part of the node's cores (two engines on one core halve both)."""
    if spec.device != "cpu" or spec.config.engine == "fake":
        return
    cores = sorted(os.sched_getaffinity(0))
    own = cores[share * len(cores) // num_shares : (share + 1) * len(cores) // num_shares]
    if own:
        os.sched_setaffinity(0, own)
