"""The actor that hosts one engine: takes requests, returns outcomes, and reports the death of its engine."""

import asyncio
import logging
import os
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from s3ray.curation.sketch import sketches
from s3ray.errors import EngineDeadError, RequestRefusedError
from s3ray.generator.engines import make_engine
from s3ray.generator.engines.base import Engine, EngineSpec, Timing
from s3ray.generator.worker import ServedTask, Worker, trial_prompts
from s3ray.machine import collect_rarely
from s3ray.tables import SENT_SCHEMA, table_from_outcomes
from s3ray.telemetry.logs import log_from, move_log, pass_on_to_vllm
from s3ray.text import valid_text
from s3ray.types import EngineLimits, EngineStats, FailureReason, GenerationRequest, Outcome, OutcomeStatus


def pack(requests: Sequence[tuple[GenerationRequest, int]]) -> bytes:
    """Requests, each with its attempt number, as bytes: plain rows in one pickle, since the driver sends millions.

    A parent example that several requests share is written once.
    """
    return pickle.dumps([(tuple(request), attempt) for request, attempt in requests], protocol=pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> Iterator[tuple[GenerationRequest, int]]:
    """Read what ``pack`` wrote."""
    for row, attempt in pickle.loads(packed):
        yield GenerationRequest._make(row), attempt


_EXIT_DELAY_S = 0.5  # long enough for the last answer to leave this process before it ends
_REPLY_AFTER_S = 2.0  # a sign of life, well before the pool loses patience (``pool._SILENCE_S``)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An actor's answer: what it finished since the last one, what it still works on, and why its engine died.

    ``timings`` are those of the texts that a timed engine wrote since then.
    """

    table: pa.Table
    num_running: int
    stats: EngineStats
    death: str | None
    timings: Sequence[Timing] = ()


_NOTHING = Exchange(table=SENT_SCHEMA.empty_table(), num_running=0, stats=EngineStats(), death=None)


@dataclass(slots=True, kw_only=True)
class _Job:
    """A request under way."""

    request: GenerationRequest
    attempt: int
    started: float
    task: "asyncio.Task[None] | None" = None


class EngineHost:
    """Hosts one engine. Every request that comes in goes out as exactly one outcome, unless the engine dies first.

    Calls carry the number of the stage's *epoch*, because Ray may start them in another order than they were sent: a
    call of a later epoch ends the earlier one, and a late call of an earlier epoch changes nothing.
    """

    def __init__(
        self, spec: EngineSpec, tasks: Mapping[str, ServedTask], *, run: str, share: int = 0, num_shares: int = 1
    ) -> None:
        """``tasks`` are keyed by ``GenerationRequest.served_task``.

        The cores of the node are divided into ``num_shares`` parts; part number ``share`` belongs to this engine.
        """
        move_log(run=run, engine=spec.engine, phase="start")
        pass_on_to_vllm()
        self._spec, self._share, self._num_shares = spec, share, num_shares
        self._tasks = tasks
        self._sketches = any(served.sketch for served in tasks.values())
        self._engine: Engine
        self._worker: Worker
        self._open = AsyncExitStack()
        self._config = spec.config
        self._name = spec.engine
        self._finished: list[Outcome] = []
        self._jobs: dict[int, _Job] = {}
        self._enough = 1
        self._worth_sending = asyncio.Event()
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._epoch = 0
        self._death: str | None = None
        self._limits: EngineLimits | None = None

    async def start(self) -> EngineLimits:
        """Build the engine and load its model; returns the limits that it resolved.

        Raises:
            InputError: the engine cannot be imported in this process, or cannot do what the job asks of it.
        """
        # Not in __init__: an error raised there reaches the driver as a traceback text only.
        num_threads = _keep_to_own_cores(self._spec, self._share, self._num_shares)
        trials = trial_prompts(self._tasks.values(), self._config.prompt_form)
        self._engine = make_engine(replace(self._spec, num_threads=num_threads, trials=trials))
        self._open.push_async_callback(self._engine.close)
        self._worker = Worker(self._engine, self._tasks, self._config, self._name)
        self._limits = await self._engine.start()
        await self._worker.try_out()
        _log.info("ready: %s", self._limits)
        return self._limits

    async def sleep(self, level: int) -> None:
        """Give up the requests under way and free the memory of the devices."""
        for index in list(self._jobs):
            self._give_up(index)
        await self._engine.sleep(level)

    async def wake(self) -> EngineLimits:
        """Take the memory back; returns the limits as ``start`` does.

        Raises:
            EngineDeadError: the engine has not started yet, or is gone.
        """
        if self._limits is None:
            raise EngineDeadError("it slept before it was ready")
        await self._engine.wake()
        return self._limits

    async def exchange(self, epoch: int, packed: bytes, cancel: Iterable[int] = ()) -> Exchange:
        """Take requests (``pack``), give up those in ``cancel`` (indexes), and return finished outcomes.

        Answers once a fifth of the requests under way is finished, since that many wait for a slot
        (``estimates.START_ALLOWANCE``), and at the latest after two seconds. After the engine's death it returns what
        was finished and ends the process.
        """
        self._begin(epoch)
        if epoch != self._epoch:
            return _NOTHING
        for index in cancel:
            self._give_up(index)
        for request, attempt in unpack(packed):
            self._take(request, attempt)
        self._enough = max(1, len(self._jobs) // 5)
        if self._jobs and self._death is None and len(self._finished) < self._enough:
            self._worth_sending.clear()
            waiting = asyncio.ensure_future(self._worth_sending.wait())
            await asyncio.wait({waiting}, timeout=_REPLY_AFTER_S)
            waiting.cancel()
        await self._check_engine()
        if epoch != self._epoch:
            return _NOTHING  # no one waits for this answer; finished outcomes belong to a later call
        self._time_out()
        finished, self._finished = self._finished, []
        if self._death is not None:
            _log.error("the engine is dead: %s", self._death)
        return Exchange(
            table=self._table(finished),
            num_running=len(self._jobs),
            stats=self._stats(),
            death=self._death,
            timings=self._engine.take_timings(),
        )

    async def abort(self, epoch: int) -> None:
        """Give up all requests of an epoch: the stage needs no more."""
        self._begin(epoch + 1)

    async def close(self) -> None:
        """Stop the engine."""
        self._begin(self._epoch + 1)
        await self._open.aclose()

    # -- requests under way ----------------------------------------------------------------------------------------

    def _begin(self, epoch: int) -> None:
        """Give up earlier epochs if this is a later one."""
        if epoch <= self._epoch:
            return
        self._epoch = epoch
        for index in list(self._jobs):
            self._give_up(index)
        self._finished = []
        self._worth_sending.set()

    def _take(self, request: GenerationRequest, attempt: int) -> None:
        now = time.monotonic()
        if not self._jobs:
            self._busy_since = now
            move_log(round=request.round, phase="generate")
        job = _Job(request=request, attempt=attempt, started=now)
        self._jobs[request.index] = job
        job.task = asyncio.create_task(self._answer(job))

    def _leave(self, job: _Job) -> bool:
        """Take a job off the list; False if it was given up before."""
        if self._jobs.get(job.request.index) is not job:
            return False
        del self._jobs[job.request.index]
        if not self._jobs:
            self._busy_s += time.monotonic() - self._busy_since
        return True

    def _give_up(self, index: int) -> None:
        job = self._jobs.get(index)
        if job is not None:
            self._leave(job)
            if job.task is not None:
                job.task.cancel()

    def _time_out(self) -> None:
        """End the requests that have been under way for too long; jobs are in the order in which they began."""
        limit = self._config.request_s
        latest = time.monotonic() - limit
        for index, job in list(self._jobs.items()):
            if job.started > latest:
                break
            self._give_up(index)
            detail = f"no answer in {limit:.0f} s (generator.request_s)"
            self._finished.append(self._failed(job, FailureReason.TIMEOUT, detail))

    async def _check_engine(self) -> None:
        try:
            await self._engine.check()
        except EngineDeadError as error:
            self._death = self._death or valid_text(str(error))

    def _stats(self) -> EngineStats:
        under_way_s = time.monotonic() - self._busy_since if self._jobs else 0.0
        return replace(self._engine.stats(), busy_s=self._busy_s + under_way_s)

    # -- one request -----------------------------------------------------------------------------------------------

    async def _answer(self, job: _Job) -> None:
        try:
            outcome = await self._worker.answer(job.request, job.attempt)
        except EngineDeadError as error:
            self._death = self._death or valid_text(str(error))
            self._worth_sending.set()
            return
        except RequestRefusedError as error:
            outcome = self._failed(job, FailureReason.REFUSED_BY_ENGINE, str(error))
        except Exception as error:
            # An error becomes the outcome of its request: the request must not vanish, nor end the others.
            outcome = self._failed(job, FailureReason.ERROR, f"{type(error).__name__}: {error}")
        if self._leave(job):
            self._finished.append(outcome)
        if len(self._finished) >= self._enough or not self._jobs:
            self._worth_sending.set()

    def _table(self, outcomes: Sequence[Outcome]) -> pa.Table:
        """A table of outcomes; what no table can hold becomes a failed outcome, and spares the others."""
        try:
            if self._sketches:
                made = sketches([outcome.text for outcome in outcomes])
                outcomes = [outcome._replace(sketch=sketch) for outcome, sketch in zip(outcomes, made, strict=True)]
            return table_from_outcomes(outcomes)
        except Exception:
            # Whatever is wrong with an outcome comes again when it is alone.
            return table_from_outcomes([self._fit_for_table(outcome) for outcome in outcomes])

    def _fit_for_table(self, outcome: Outcome) -> Outcome:
        try:
            table_from_outcomes([outcome])
        except Exception as error:
            detail = valid_text(f"its answer cannot be stored: {type(error).__name__}: {error}")
            _log.warning("request %s failed: %s", outcome.request_id, detail)
            return Outcome(
                request_id=outcome.request_id,
                index=outcome.index,
                status=OutcomeStatus.FAILED,
                reason=FailureReason.ERROR.value,
                detail=detail,
                engine=self._name,
                attempt=outcome.attempt,
                seconds=outcome.seconds,
            )
        return outcome

    def _failed(self, job: _Job, reason: FailureReason, detail: str) -> Outcome:
        detail = valid_text(detail)
        _log.warning("request %s failed (%s): %s", job.request.id, reason.value, detail)
        return Outcome(
            request_id=job.request.id,
            index=job.request.index,
            status=OutcomeStatus.FAILED,
            reason=reason.value,
            detail=detail,
            engine=self._name,
            attempt=job.attempt,
            seconds=time.monotonic() - job.started,
        )


class GeneratorActor:
    """The Ray actor around an ``EngineHost``. Ray wraps each method of its class, so only the pool's calls are here."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        """Takes the arguments of ``EngineHost``."""
        collect_rarely()
        log_from()  # this process belongs to the actor; a host in another program leaves the log to that program
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")  # only there it says where the seconds of a start went
        self._host = EngineHost(*parts, **settings)

    async def start(self) -> EngineLimits:
        """See ``EngineHost.start``."""
        return await self._host.start()

    async def gpus(self) -> tuple[str, ...]:
        """The ids of the GPUs on this node that Ray gave it; two actors that share a GPU name the same."""
        from s3ray.cluster import own_gpus  # imports Ray, which a run in one process does not need

        return own_gpus()

    async def exchange(self, epoch: int, packed: bytes, cancel: Iterable[int]) -> Exchange:
        """See ``EngineHost.exchange``; the process ends with the engine."""
        answer = await self._host.exchange(epoch, packed, cancel)
        if answer.death is not None:
            # Not through ray.actor.exit_actor: a dead engine never comes back inside the process.
            asyncio.get_running_loop().call_later(_EXIT_DELAY_S, os._exit, 1)
        return answer

    async def abort(self, epoch: int) -> None:
        """See ``EngineHost.abort``."""
        await self._host.abort(epoch)

    async def sleep(self, level: int) -> None:
        """See ``EngineHost.sleep``."""
        await self._host.sleep(level)

    async def wake(self) -> EngineLimits:
        """See ``EngineHost.wake``."""
        return await self._host.wake()

    async def close(self) -> None:
        """See ``EngineHost.close``."""
        await self._host.close()


def _keep_to_own_cores(spec: EngineSpec, share: int, num_shares: int) -> int:
    """Bind this process and its children to its part of the node's cores; returns how many cores that is.

    Two engines that share cores slow each other several times.
    """
    if spec.device != "cpu" or not spec.config.needs_devices:
        return 1
    cores = sorted(os.sched_getaffinity(0))
    own = cores[share * len(cores) // num_shares : (share + 1) * len(cores) // num_shares]
    if own:
        os.sched_setaffinity(0, own)
    return max(1, len(own))
