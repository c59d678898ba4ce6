"""The process around one engine: renders prompts, generates, reads and cleans what was written.

A plain class; ``ray.remote`` is applied where placement is known (``pool``). All traffic is one call, ``exchange``:
requests in, finished outcomes out. It answers as soon as there is something worth sending, or after a short while, so
it is the heartbeat too.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """An actor's answer: what it finished since the last one, what it still works on, and why its engine died."""

    outcomes: tuple[Outcome, ...]
    num_running: int = 0
    death: str | None = None


class GeneratorActor:
    """Hosts one engine. Every request that comes in goes out as exactly one outcome, unless the engine dies first.

    Calls carry the number of the stage's *epoch*, because Ray may start them in another order than they were sent: a
    call of a later epoch ends the earlier one, and a late call of an earlier epoch changes nothing.
    """

    def __init__(self, spec: EngineSpec, task: Task, *, clean: bool, share: int = 0, num_shares: int = 1) -> None:
        """``share`` of ``num_shares``: which part of the node's cores this process may use."""
        self._engine = make_engine(replace(spec, num_threads=_keep_to_own_cores(spec, share, num_shares)))
        self._task = task
        self._form = spec.config.prompt_form
        self._clean = clean
        self._request_s = spec.config.request_s
        self._name = spec.engine
        self._finished: list[Outcome] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._epoch = 0
        self._death: str | None = None

    async def start(self) -> EngineLimits:
        """Load the model; returns the limits that the engine resolved."""
        return await self._engine.start()

    async def exchange(self, epoch: int, requests: Sequence[tuple[GenerationRequest, int]]) -> Exchange:
        """Take requests (each with its attempt number), give back finished outcomes.

        Answers once a quarter of what is under way is finished, at the latest after two seconds. After the engine's
        death it gives back what was finished and ends the process.
        """
        self._begin(epoch)
        if epoch != self._epoch:
            return Exchange(outcomes=())
        for request, attempt in requests:
            job = asyncio.create_task(self._answer(request, attempt))
            self._running.add(job)
            job.add_done_callback(self._running.discard)
        enough = max(1, len(self._running) // 4)
        deadline = time.monotonic() + _REPLY_AFTER_S
        while self._running and self._death is None and len(self._finished) < enough:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        await self._check_engine()
        if epoch != self._epoch:
            return Exchange(outcomes=())  # nobody waits for this answer; what is finished belongs to a later call
        outcomes, self._finished = tuple(self._finished), []
        if self._death is not None:
            # The process must end, and not through ray.actor.exit_actor: a dead engine never comes back inside it.
            asyncio.get_running_loop().call_later(_EXIT_DELAY_S, os._exit, 1)
        return Exchange(outcomes=outcomes, num_running=len(self._running), death=self._death)

    async def abort(self, epoch: int) -> None:
        """Give up everything of an epoch that is under way: the stage needs no more."""
        self._begin(epoch + 1)

    async def close(self) -> None:
        """Stop the engine."""
        self._begin(self._epoch + 1)
        await self._engine.close()

    def _begin(self, epoch: int) -> None:
        """Give up earlier epochs if this is a later one."""
        if epoch <= self._epoch:
            return
        self._epoch = epoch
        for job in self._running:
            job.cancel()
        self._running = set()
        self._finished = []
        self._changed.set()

    async def _check_engine(self) -> None:
        try:
            await self._engine.check()
        except EngineDeadError as error:
            self._death = self._death or str(error)

    async def _answer(self, request: GenerationRequest, attempt: int) -> None:
        started = time.monotonic()
        try:
            prompt = self._task.render(request, self._form)
            async with asyncio.timeout(self._request_s):
                generation = await self._engine.generate(request.id, prompt, request.seed)
            outcome = self._read(request, generation, attempt, time.monotonic() - started)
        except EngineDeadError as error:
            self._death = self._death or str(error)
            self._changed.set()
            return
        except RequestRefusedError as error:
            outcome = self._failed(request, attempt, FailureReason.REFUSED_BY_ENGINE, str(error))
        except TimeoutError:
            detail = f"no answer in {self._request_s:.0f} s (generator.request_s)"
            outcome = self._failed(request, attempt, FailureReason.TIMEOUT, detail)
        except Exception as error:
            # Whatever goes wrong with one request is that request's outcome: it must not vanish, nor end the others.
            outcome = self._failed(request, attempt, FailureReason.ERROR, f"{type(error).__name__}: {error}")
        self._finished.append(outcome)
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

    def _failed(self, request: GenerationRequest, attempt: int, reason: FailureReason, detail: str) -> Outcome:
        return Outcome(
            request_id=request.id,
            index=request.index,
            status=OutcomeStatus.FAILED,
            reason=reason.value,
            detail=detail,
            engine=self._name,
            attempt=attempt,
        )


def _keep_to_own_cores(spec: EngineSpec, share: int, num_shares: int) -> int:
    """Bind this process and its children to its part of the node's cores and say how many they are.

    Two engines that share cores slow each other several times.
    """
    if spec.device != "cpu" or spec.config.engine == "fake":
        return 1
    cores = sorted(os.sched_getaffinity(0))
    own = cores[share * len(cores) // num_shares : (share + 1) * len(cores) // num_shares]
    if own:
        os.sched_setaffinity(0, own)
    return max(1, len(own))
