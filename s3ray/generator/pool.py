"""The pool of engines on Ray: starts them, feeds them, replaces them when they die.

Called by the driver. Engines pull: each holds one ``exchange`` call, and every answer brings it as many new requests
as it has room for. What a dead engine held goes to the others.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s3ray.config import GeneratorConfig
from s3ray.errors import InputError, PoolError
from s3ray.generator.actor import Exchange, GeneratorActor
from s3ray.generator.dispatch import room
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.ledger import Ledger
from s3ray.generator.placement import EnginePlacement, Plan
from s3ray.tasks import Task
from s3ray.types import EngineLimits, GenerationRequest, Outcome

Emit = Callable[..., None]

_MAX_ATTEMPTS = 3
_POLL_S = 1.0
_STOP_S = 20.0
_SILENCE_S = 120.0
_SHARD = 32


class RequestSource(Protocol):
    """Where requests come from (``stage.Stage``)."""

    @property
    def finished(self) -> bool:
        """Whether no request is wanted any more."""
        ...

    def take(self, num: int) -> list[GenerationRequest]:
        """Up to ``num`` requests."""
        ...


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One place in the pool and the actor that sits in it."""

    placement: EnginePlacement
    actor: Any = None
    limits: EngineLimits | None = None
    call: Any = None
    called: float = 0.0
    num_restarts: int = 0
    problem: str = ""
    is_given_up: bool = False

    @property
    def engine(self) -> str:
        return self.placement.engine


class GeneratorPool:
    """Engines in Ray actors. ``start`` returns at once; the first ``generate`` waits for the first ready engine."""

    def __init__(self, config: GeneratorConfig, task: Task, plan: Plan, *, clean: bool, emit: Emit) -> None:
        self._config = config
        self._task = task
        self._clean = clean
        self._emit = emit
        self._releases_devices = plan.mode == "swap" and plan.device == "gpu"
        self._seats = [_Seat(placement=placement) for placement in plan.engines]
        self._ledger = Ledger(_MAX_ATTEMPTS)
        self._epoch = 0

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every engine that is not running, in parallel."""
        for seat in self._seats:
            if seat.actor is None and not seat.is_given_up:
                self._launch(seat)

    def pause(self) -> None:
        """Make way for training: engines on GPUs leave in swap mode, others only stay idle."""
        if self._releases_devices:
            self.close()

    def close(self) -> None:
        """Stop every engine; one that does not stop in time is killed."""
        closing = [seat.actor.close.remote() for seat in self._seats if seat.limits is not None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_STOP_S)
        for seat in self._seats:
            if seat.actor is not None:
                self._remove(seat)
                self._emit("engine_stopped", engine=seat.engine)

    def _launch(self, seat: _Seat) -> None:
        placement = seat.placement
        spec = EngineSpec(engine=seat.engine, config=self._config, device=placement.device)
        options: dict[str, Any] = {
            "num_cpus": placement.num_cpus,
            "num_gpus": placement.num_gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if placement.node_id is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(placement.node_id, soft=True)
        if not placement.num_gpus:
            # Ray leaves the GPUs visible to actors that reserve none.
            options["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        remote = ray.remote(GeneratorActor).options(**options)
        seat.actor = remote.remote(
            spec, self._task, clean=self._clean, share=placement.share, num_shares=placement.num_shares
        )
        seat.limits = None
        seat.call = seat.actor.start.remote()
        seat.called = time.monotonic()
        self._emit("engine_starting", engine=seat.engine)

    def _remove(self, seat: _Seat) -> None:
        ray.kill(seat.actor)
        seat.actor = seat.call = seat.limits = None

    # -- generation ------------------------------------------------------------------------------------------------

    def generate(self, source: RequestSource) -> Iterator[list[Outcome]]:
        """Answer the requests of ``source`` until it wants no more; yields outcomes as they arrive.

        The caller settles each batch with the source before it asks for the next.

        Raises:
            PoolError: no engine is left.
        """
        self.start()
        self._epoch += 1
        while not source.finished:
            self._feed(source)
            if source.finished:
                break
            outcomes = self._next_outcomes()
            if outcomes:
                yield outcomes
        self._abort()

    def _feed(self, source: RequestSource) -> None:
        """Deal requests to the engines that wait for work, in small shards, so that a short stage keeps all busy."""
        waiting = [seat for seat in self._seats if seat.limits is not None and seat.call is None]
        dealt: dict[str, list[GenerationRequest]] = {seat.engine: [] for seat in waiting}
        hungry = list(waiting)
        while hungry:
            seat = min(hungry, key=lambda seat: self._ledger.num_held_by(seat.engine))
            assert seat.limits is not None  # only seats with a ready engine wait for work
            num = min(_SHARD, room(seat.limits, self._ledger.num_held_by(seat.engine)))
            requests = self._ledger.take_returned(num)
            requests += source.take(num - len(requests))
            self._ledger.hand_out(seat.engine, requests)
            dealt[seat.engine] += requests
            if not requests:
                hungry.remove(seat)
        for seat in waiting:
            if self._ledger.num_held_by(seat.engine):
                numbered = [(request, self._ledger.attempt(request.id)) for request in dealt[seat.engine]]
                seat.call = seat.actor.exchange.remote(self._epoch, numbered)
                seat.called = time.monotonic()

    def _next_outcomes(self) -> list[Outcome]:
        """Wait for answers; all that are there become one batch."""
        calls = {seat.call: seat for seat in self._seats if seat.call is not None}
        if not calls:
            self._raise_if_empty()
            raise RuntimeError("the source is not finished but gives no request")
        done, rest = ray.wait(list(calls), num_returns=1, timeout=_POLL_S)
        if done and rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        outcomes: list[Outcome] = []
        for call in done:
            outcomes += self._receive(calls[call])
        for call, seat in calls.items():
            limit = self._config.ready_s if seat.limits is None else _SILENCE_S
            if seat.call is call and time.monotonic() - seat.called > limit:
                problem = f"was not ready after {limit:.0f} s (generator.ready_s)"
                outcomes += self._lose(seat, problem if seat.limits is None else f"did not answer for {limit:.0f} s")
        return outcomes

    def _receive(self, seat: _Seat) -> list[Outcome]:
        call, seat.call = seat.call, None
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            # What is wrong with the input is wrong for every later start too.
            seat.is_given_up = isinstance(error.cause, InputError)
            return self._lose(seat, _first_line(error.cause or error))
        except ray.exceptions.RayError as error:
            return self._lose(seat, _first_line(error))
        if isinstance(answer, Exchange):
            outcomes = self._ledger.settle(seat.engine, answer.outcomes)
            problem = answer.death
            if not answer.num_running and self._ledger.num_held_by(seat.engine):
                problem = problem or "lost sight of requests that it was given"
            return outcomes + (self._lose(seat, problem) if problem else [])
        seat.limits = answer
        limits = {name: getattr(answer, name) for name in answer.__slots__}
        self._emit("engine_ready", engine=seat.engine, seconds=time.monotonic() - seat.called, limits=limits)
        return []

    def _lose(self, seat: _Seat, problem: str) -> list[Outcome]:
        """Replace a lost engine, or leave its seat empty after too many deaths; its requests go to the others."""
        in_flight = self._ledger.num_held_by(seat.engine)
        failed = self._ledger.lose(seat.engine)
        self._remove(seat)
        seat.problem = problem
        seat.is_given_up |= seat.num_restarts >= self._config.max_restarts
        self._emit("engine_lost", engine=seat.engine, problem=problem, in_flight=in_flight, restarts=seat.num_restarts)
        if not seat.is_given_up:
            seat.num_restarts += 1
            self._launch(seat)
        return failed

    def _raise_if_empty(self) -> None:
        if all(seat.is_given_up for seat in self._seats):
            problems = "; ".join(f"{seat.engine}: {seat.problem}" for seat in self._seats)
            raise PoolError(
                f"no engine is left ({problems})",
                "Ray keeps what engines print in session_latest/logs of its temporary folder (/tmp/ray).",
            )

    def _abort(self) -> None:
        """Give up what is still under way; its answers are not wanted."""
        holders = self._ledger.drop()
        for seat in self._seats:
            if seat.engine in holders:
                seat.call = None
                seat.actor.abort.remote(self._epoch)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
