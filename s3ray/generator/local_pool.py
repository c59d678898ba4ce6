"""One engine in this process, without Ray: a whole run for a debugger. The driver uses it in the place of the pool."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from s3ray.config.job import PlacementConfig, RunConfig
from s3ray.errors import InputError, PoolError
from s3ray.generator.actor import EngineHost, pack
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.pending import PendingChunk
from s3ray.generator.scheduling.dispatch import Dispatcher
from s3ray.generator.scheduling.queue import RequestSource
from s3ray.generator.worker import ServedTask
from s3ray.placement.plan import Plan
from s3ray.tables import Chunk
from s3ray.telemetry.events import EngineLost, EngineReady, EngineStarting, EngineStopped, Event
from s3ray.telemetry.logs import log_apart

_ENGINE = "engine-0"
Value = TypeVar("Value")


def alone(config: RunConfig) -> RunConfig:
    """The job with one engine and one train worker, which take turns on what this machine has.

    Only execution settings differ, so that the run is the same one as on a cluster.

    Raises:
        InputError: an engine would need several GPUs.
    """
    for name in ("tensor_parallel", "pipeline_parallel"):
        if (value := getattr(config.generator, name)) > 1:
            hint = "Set it to 1, or leave --local out."
            raise InputError("is for a cluster", field=f"generator.{name}", value=str(value), hint=hint)
    generator = {"engines": 1, "min_engines": None, "accelerator": None}
    student = {"workers": 1, "min_workers": None, "accelerator": None}
    sections = {
        "generator": config.generator.model_copy(update=generator),
        "student": config.student.model_copy(update=student),
        "placement": PlacementConfig(),
    }
    return config.model_copy(update=sections)


class LocalPool:
    """One engine in this process, whatever ``generator.engines`` says; it starts with the first request.

    It lives on an event loop in a thread of its own, so that it also works in a notebook, whose thread has a loop. It
    gets its requests from the same dispatcher as the engines of a cluster. An engine that dies ends the run, which
    goes on with the same command.
    """

    works_while_training = False

    def __init__(
        self, config: RunConfig, tasks: Mapping[str, ServedTask], plan: Plan, *, emit: Callable[[Event], None]
    ) -> None:
        """``tasks`` are keyed by ``GenerationRequest.served_task``; ``plan`` is the one for ``alone(config)``."""
        self._config = config
        self._tasks = tasks
        self._plan = plan
        self._emit = emit
        self._dispatcher = Dispatcher()
        self._epoch = 0
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self._host: EngineHost | None = None

    def generate(self, source: RequestSource) -> Iterator[Chunk]:
        """Answer the requests of ``source`` until it wants no more, see ``rounds.driver.Generator``.

        Raises:
            PoolError: the engine was not ready in time, or died.
            InputError: the engine cannot do what the job asks of it.
        """
        host = self._host or self._start()
        self._epoch += 1
        pending = PendingChunk()
        while not source.finished:
            assignment = self._dispatcher.assign(_ENGINE, source)
            if self._dispatcher.num_in_flight(_ENGINE):
                answer = self._call(host.exchange(self._epoch, pack(assignment.requests), assignment.cancel))
                pending.take_in(answer, _ENGINE, self._dispatcher, time.monotonic())
                if answer.death is not None:
                    if pending.num_rows:
                        yield pending.take()
                    raise self._lost(answer.death)
            elif not pending.num_rows and not source.finished:
                raise RuntimeError("the source is not finished but gives no request")
            if pending.is_due(time.monotonic(), nothing_else=self._dispatcher.is_empty):
                yield pending.take()
        self._dispatcher.drop()
        self._call(host.abort(self._epoch))

    def pause(self) -> None:
        """Make way for training: an engine on a GPU leaves, any other only stays idle."""
        if self._plan.engines_leave:
            self.close()

    def prepare(self) -> None:
        """The engine starts when it is first asked, in the thread that asks."""

    def close(self) -> None:
        """Stop the engine."""
        if self._host is None:
            return
        host, self._host = self._host, None
        self._dispatcher.leave(_ENGINE, is_blamed=False)
        try:
            self._call(host.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._emit(EngineStopped(engine=_ENGINE))

    def _start(self) -> EngineHost:
        began = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name=_ENGINE, daemon=True)
        self._thread.start()
        placement = self._plan.engines[0]
        self._emit(EngineStarting(engine=_ENGINE, nodes=placement.node_ids))
        spec = EngineSpec(
            engine=_ENGINE,
            config=self._config.generator,
            device=placement.device,
            executor=placement.executor,
            memory_share=placement.memory_share,
        )
        self._host = host = self._call(_make_host(spec, self._tasks, self._config.name))
        ready_s = self._config.generator.ready_s
        try:
            limits = self._call(host.start(), ready_s)
        except TimeoutError:
            raise self._lost(f"was not ready after {ready_s:.0f} s (generator.ready_s)") from None
        self._dispatcher.join(_ENGINE, limits)
        seconds = time.monotonic() - began
        self._emit(EngineReady(engine=_ENGINE, seconds=seconds, limits=limits, running=1, wanted=1))
        return host

    def _lost(self, problem: str) -> PoolError:
        in_flight = self._dispatcher.leave(_ENGINE, is_blamed=False).num_in_flight
        self._emit(EngineLost(engine=_ENGINE, problem=problem, in_flight=in_flight))
        return PoolError(f"no engine is left ({_ENGINE}: {problem})")

    def _call(self, what: Coroutine[Any, Any, Value], limit_s: float | None = None) -> Value:
        """Run a coroutine in the engine's thread and wait for it; without limit, since a debugger may stop in it."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(limit_s)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, then end what is left in it."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


async def _make_host(spec: EngineSpec, tasks: Mapping[str, ServedTask], run: str) -> EngineHost:
    """Make the host in the engine's thread, so that only log lines of that thread are marked as the engine's."""
    log_apart(run=run)
    return EngineHost(spec, tasks, run=run)
