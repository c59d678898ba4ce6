"""The pool of engines on Ray: starts them, feeds them, replaces them when they die.

Called by the driver. Engines pull: each has one ``exchange`` call under way, and after every answer it gets as many new
requests as the dispatcher assigns to it. The requests of a dead engine go to the others.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import ray

from s3ray.config.job import RunConfig
from s3ray.errors import EngineStartError, InputError, PoolError
from s3ray.generator.actor import Exchange, pack
from s3ray.generator.demand import IDLE, Demand
from s3ray.generator.pending import PendingChunk
from s3ray.generator.places import KnownNodes, Places
from s3ray.generator.replica import (
    CallFailure,
    Refusal,
    Replica,
    ReplicaState,
    Supervisor,
    answers_in_time,
    close_in_time,
    failure_of,
    no_engine_left,
    nodes_like,
    sleep_in_time,
)
from s3ray.generator.scheduling.dispatch import Dispatcher, Recorder
from s3ray.generator.scheduling.queue import MIN_AHEAD, RequestSource
from s3ray.generator.scheduling.room import Holder, may_join, num_units, who_leaves
from s3ray.generator.shared_pool import Sharing
from s3ray.generator.worker import ServedTask
from s3ray.placement.place import as_planned
from s3ray.placement.plan import Plan
from s3ray.tables import Chunk
from s3ray.telemetry import events
from s3ray.types import EngineLimits

Emit = Callable[[events.Event], None]

_NODE_ENDS = "its node is about to be taken away"
# Answers end a wait at once; no other event (a new node, the end of a back-off) needs to be noticed sooner.
_POLL_S = 1.0
# Engines answer at least every two seconds (``actor``): no busy process or network pauses for so long.
_SILENCE_S = 120.0


class GeneratorPool:
    """Engines in Ray actors. ``start`` returns at once; ``generate`` feeds each engine as soon as it is ready."""

    def __init__(
        self,
        config: RunConfig,
        tasks: Mapping[str, ServedTask],
        plan: Plan,
        *,
        emit: Emit,
        sharing: Sharing | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """``tasks`` are keyed by ``GenerationRequest.served_task``; ``sharing`` is for a pool that several runs share.

        A ``recorder`` is notified of everything that the pool does; with one, engines also time each text.
        """
        self._config = as_planned(config, plan)
        self._tasks = tasks
        self._emit = emit
        self._plan = plan
        self.works_while_training = not (plan.engines_leave or plan.sleep_level)
        placements = {placement.engine: placement for placement in plan.engines}
        self._num_wanted = plan.num_wanted
        names = [f"engine-{number}" for number in range(plan.num_wanted)]
        is_timed = recorder is not None
        self._replicas = [
            Replica(name, number, placements.get(name), is_timed=is_timed) for number, name in enumerate(names)
        ]
        self._sharing = sharing
        self._recorder = recorder
        # Requests drawn far ahead of need would delay those of a more urgent stage.
        self._dispatcher = Dispatcher(1 if sharing else plan.num_wanted, 0 if sharing else MIN_AHEAD, recorder=recorder)
        self._supervisor = Supervisor(config.generator.max_restarts)
        self._nodes = KnownNodes()
        self._demand = Demand(self._config, plan, self._replicas, self._dispatcher) if plan.asking else None
        self._places = Places(self._config, plan.device, self._nodes, self._replicas, self._demand)
        self._alive_at = time.monotonic()
        self._has_started = False
        self._epoch = 0
        self._pending = PendingChunk()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, in parallel, every engine that is not running and has a place."""
        self._alive_at = time.monotonic()
        self._tend()

    def start_all(self) -> None:
        """Start every engine and wait until all are ready.

        Raises:
            PoolError: one of them died too often, or finds no place.
            EngineStartError: none can start, for a reason that is the same each time.
        """
        if self._demand:
            self._demand.want_all()
        self.start()
        while any(replica.state is not ReplicaState.READY for replica in self._replicas):
            if any(replica.state is ReplicaState.GIVEN_UP for replica in self._replicas):
                raise no_engine_left(self._replicas, ", for all were to be measured")
            self._wait()
            self._tend()

    def pause(self) -> None:
        """Make way for training: in swap mode engines on GPUs stop or sleep, others only stay idle."""
        if self._plan.engines_leave:
            self.close()
        elif self._plan.sleep_level:
            self._put_to_sleep()

    def prepare(self) -> None:
        """Begin to load, or to wake, the engines that made way for training: it is over, and requests will come."""
        self.start()

    def _put_to_sleep(self) -> None:
        """Wait until all have started, then put them to sleep: a GPU without an engine would get two train workers."""
        loading = {replica.call: replica for replica in self._replicas if replica.state is ReplicaState.STARTING}
        for call in answers_in_time(list(loading), self._config.generator.ready_s):
            self._receive(loading[call])
        ready = [replica for replica in self._replicas if replica.state is ReplicaState.READY]
        for replica in sleep_in_time(ready, self._plan.sleep_level, self._plan.sleep_s):
            self._dispatcher.leave(replica.engine, is_blamed=False)
            replica.fall_asleep()
            self._emit(events.EngineAsleep(engine=replica.engine, level=self._plan.sleep_level))
        self._stop([replica for replica in self._running() if replica.state is not ReplicaState.ASLEEP])

    def close(self) -> None:
        """Stop every engine; one that does not stop in time is killed."""
        if self._demand:
            self._demand.end()
        self._stop([replica for replica in self._replicas if replica.holds_place or replica.is_asking])

    def _stop(self, replicas: list[Replica], reason: str = "") -> None:
        close_in_time([replica for replica in replicas if replica.state in (ReplicaState.READY, ReplicaState.ASLEEP)])
        self._remove(replicas, reason)

    def _remove(self, replicas: list[Replica], reason: str) -> None:
        """End engines at once; what they hold goes to others."""
        for replica in replicas:
            self._dispatcher.leave(replica.engine, is_blamed=False)
            replica.remove()
            self._emit(events.EngineStopped(engine=replica.engine, reason=reason))

    def _running(self) -> list[Replica]:
        """The replicas that hold their place."""
        return [replica for replica in self._replicas if replica.holds_place]

    @property
    def num_holding(self) -> int:
        """Engines that hold devices at this moment."""
        return len(self._running())

    @property
    def num_units(self) -> int:
        """Units (see ``scheduling.room``) that hold devices at this moment; threads of runs ask for it."""
        return num_units([replica.holder for replica in self._running()])

    def _holders(self) -> list[Holder]:
        """Those that hold devices, with what they have to do; for the pool's own thread."""
        in_flight = self._dispatcher.num_in_flight
        return [replace(each.holder, num_in_flight=in_flight(each.engine)) for each in self._running()]

    def _is_wanted(self, replica: Replica) -> bool:
        """Whether one more engine could be used, and its runs leave it devices somewhere."""
        if self._demand:
            return self._demand.wants(replica)
        sharing = self._sharing
        if sharing is None:
            return True
        num_allowed = sharing.num_allowed() * self._plan.engines_per_gpu
        return sharing.source.num_customers > 0 and self.num_holding < num_allowed

    def _may_start(self, replica: Replica) -> bool:
        """Whether it may take its place."""
        if self._sharing is None or replica.placement is None:
            return True
        num_allowed = self._sharing.num_allowed()
        return may_join(self._holders(), replica.placement.node_id, num_allowed, self._plan.engines_per_gpu)

    def _tend(self) -> None:
        """Start every engine whose back-off is over and for which a node has room; drain those beyond the allowance."""
        if self._sharing is not None:
            for indexes in self._sharing.source.take_withdrawn():
                self._dispatcher.withdraw(indexes)
            self._make_room(self._sharing.num_allowed())
        now = time.monotonic()
        self._leave_ending_nodes(now)
        if self._demand:
            self._stop(self._demand.review(now), IDLE)
        for replica in self._replicas:
            if replica.state is ReplicaState.ASLEEP:
                replica.wake(now)
            if not (replica.is_due(now) and self._is_wanted(replica) and self._has_place(replica, now)):
                continue
            if self._may_start(replica) and self._has_model(replica, now):
                replica.launch(self._config.generator, self._tasks, run=self._config.name, now=now)
                nodes = tuple(sorted(replica.nodes))
                self._emit(events.EngineStarting(engine=replica.engine, nodes=nodes, restarts=replica.num_restarts))

    def _has_place(self, replica: Replica, now: float) -> bool:
        has_place, news = self._places.find(replica, self._supervisor.unreliable_nodes(now), now)
        return self._tell_waiting(replica, news) or has_place

    def _has_model(self, replica: Replica, now: float) -> bool:
        has_model, news = self._places.has_model(replica, now)
        return self._tell_waiting(replica, news) or has_model

    def _tell_waiting(self, replica: Replica, news: str) -> bool:
        if news:
            self._emit(
                events.EngineWaiting(
                    engine=replica.engine, problem=news, running=self.num_holding, wanted=self._num_wanted
                )
            )
        return False

    def _make_room(self, num_allowed: int) -> None:
        """Drain the engines of the units beyond ``num_allowed``, those with the least to do first."""
        for replica in self._replicas:
            replica.learn_gpu()
        leaving = set(who_leaves(self._holders(), num_allowed, self._plan.engines_per_gpu))
        draining = [replica for replica in self._running() if replica.engine in leaving]
        for replica in draining:
            replica.drain()
        self._stop([replica for replica in draining if not self._dispatcher.num_in_flight(replica.engine)])

    def _leave_ending_nodes(self, now: float) -> None:
        """Drain engines whose node is about to be taken away; what they still hold then goes to others in time."""
        gone, ending = [], self._nodes.ending(now)
        for replica in [each for each in self._running() if ending and not each.nodes.isdisjoint(ending)]:
            replica.drain()
            holds = replica.state is ReplicaState.READY and self._dispatcher.num_in_flight(replica.engine)
            if not holds or self._nodes.end_soon(replica.nodes, now):
                gone.append(replica)
        self._remove(gone, _NODE_ENDS)

    # -- generation ------------------------------------------------------------------------------------------------

    def generate(self, source: RequestSource) -> Iterator[Chunk]:
        """Answer the requests of ``source`` until it wants no more.

        The caller makes each chunk durable and settles it with the source before it asks for the next.

        Raises:
            PoolError: no engine is left.
            EngineStartError: none can start, for a reason that is the same each time.
            InputError: no engine can do what the job asks of it.
        """
        if self._demand:
            self._demand.look(source, time.monotonic())
        self.start()
        self._epoch += 1
        self._pending = PendingChunk()
        for replica in self._replicas:
            replica.note_idle(time.monotonic())
        while not source.finished:
            self._feed(source)
            if source.finished:
                break
            try:
                self._wait(source)
            except (PoolError, EngineStartError, InputError):
                if not self._pending.num_rows:
                    raise
                yield self._pending.take()  # the answers so far are not lost, and may be enough
            if self._demand:
                self._demand.look(source, time.monotonic())
            self._tend()
            if self._pending.is_due(time.monotonic(), nothing_else=self._dispatcher.is_empty):
                yield self._pending.take()
        self._abort()

    def refresh_stats(self, limit_s: float) -> None:
        """Ask every idle engine for its statistics, by an exchange without requests.

        Engines that do not answer within ``limit_s`` seconds are left alone.
        """
        self._epoch += 1  # the epoch of the last stage was aborted, and engines no longer answer for it
        now = time.monotonic()
        calls: dict[ray.ObjectRef | None, Replica] = {}
        for replica in self._replicas:
            if replica.state is ReplicaState.READY and replica.call is None:
                replica.exchange(self._epoch, pack([]), [], now)
                calls[replica.call] = replica
        for call in answers_in_time(list(calls), limit_s):
            self._receive(calls[call])

    def _feed(self, source: RequestSource) -> None:
        """Give every engine that waits for work what the dispatcher assigns to it."""
        for replica in self._replicas:
            if replica.state is not ReplicaState.READY or replica.call is not None:
                continue
            now = time.monotonic()
            if replica.is_held_back:
                replica.exchange(self._epoch, pack([]), [], now)
                continue
            assignment = self._dispatcher.assign(replica.engine, source)
            if assignment.requests or assignment.cancel or self._dispatcher.num_in_flight(replica.engine):
                replica.exchange(self._epoch, pack(assignment.requests), assignment.cancel, now)
            else:
                replica.note_idle(now)

    def _wait(self, source: RequestSource | None = None) -> None:
        """Wait for an answer, take in all that have arrived, and check the engines that have not answered.

        Without a ``source`` the caller waits only for engines to become ready.
        """
        calls = {replica.call: replica for replica in self._replicas if replica.call is not None}
        if calls:
            done, rest = ray.wait(list(calls), num_returns=1, timeout=_POLL_S)
            if done and rest:
                done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            for call in done:
                self._receive(calls[call])
            self._check_silent([replica for call, replica in calls.items() if replica.call is call])
        elif waiting := [replica for replica in self._replicas if replica.state is ReplicaState.WAITING]:
            self._raise_if_stranded(waiting)
            time.sleep(_POLL_S / 4)
        elif all(replica.state is ReplicaState.GIVEN_UP for replica in self._replicas):
            raise no_engine_left(self._replicas)
        elif source is None or source.is_waiting:
            time.sleep(_POLL_S / 4)
        elif not self._pending.num_rows and not source.finished:
            raise RuntimeError("the source is not finished but gives no request")

    def _check_silent(self, silent: list[Replica]) -> None:
        """Replace engines whose node is gone, and those that have been starting or silent for too long."""
        now = time.monotonic()
        living = self._nodes.living(now)
        generator = self._config.generator
        for replica in silent:
            waited = replica.waited_s(now)
            if not replica.nodes <= living:
                self._lose(replica, "its node is gone", is_blamed=False)
            elif replica.state is ReplicaState.STARTING and waited > generator.ready_s:
                self._lose(replica, f"was not ready after {generator.ready_s:.0f} s (generator.ready_s)")
            elif replica.state is ReplicaState.READY and waited > _SILENCE_S:
                self._lose(replica, f"did not answer for {_SILENCE_S:.0f} s")

    def _receive(self, replica: Replica) -> None:
        call = replica.take_call()
        if call is None:
            return  # it was given up with another one
        try:
            answer = ray.get(call)
        except ray.exceptions.RayError as error:
            failure = failure_of(error)
            if failure.may_live:
                self._ask_again(replica, failure.problem)
            else:
                nodes = replica.nodes
                self._settle_loss(replica, failure)
                if isinstance(failure.refusal, EngineStartError) and not self._has_started:
                    self._give_up_alike(nodes, failure)
        else:
            if isinstance(answer, EngineLimits):
                self._welcome(replica, answer)
            else:
                self._take_in(replica, answer)

    def _welcome(self, replica: Replica, limits: EngineLimits) -> None:
        now = self._alive_at = time.monotonic()
        self._has_started = True
        event = events.EngineAwake if replica.is_waking else events.EngineReady
        if self._demand:
            self._demand.note_ready(replica, now)
        replica.become_ready(now)
        self._dispatcher.join(replica.engine, limits)
        self._emit(
            event(
                engine=replica.engine,
                seconds=replica.waited_s(now),
                limits=limits,
                running=self.num_holding,
                wanted=self._num_wanted,
            )
        )

    def _take_in(self, replica: Replica, answer: Exchange) -> None:
        """Settle what an engine finished, and check that it makes progress."""
        now = self._alive_at = time.monotonic()
        if self._recorder is not None:
            self._recorder.timed(answer.timings)
        late = self._pending.take_in(answer, replica.engine, self._dispatcher, now, replica.num_restarts)
        stats = answer.stats
        progress = (stats.num_output_tokens, stats.num_prompt_tokens, stats.num_replies)
        replica.note_answer(progress, now, has_rows=answer.table.num_rows > len(late))
        num_held = self._dispatcher.num_in_flight(replica.engine)
        if answer.death is not None:
            self._lose(replica, answer.death)
        elif num_held and not answer.num_running and replica.is_held_back:
            self._dispatcher.take_back(replica.engine)
        elif num_held and not answer.num_running:
            self._lose(replica, f"lost {num_held} of its requests")
        elif (num_held or late) and replica.stalled_s(now) > self._config.generator.stall_s:
            self._lose(
                replica, f"computed nothing for {self._config.generator.stall_s:.0f} s (generator.stall_s): {stats}"
            )
        if not self._dispatcher.num_in_flight(replica.engine):
            replica.close_gap()

    # -- supervision -----------------------------------------------------------------------------------------------

    def _lose(self, replica: Replica, problem: str, *, is_blamed: bool = True) -> None:
        self._settle_loss(replica, CallFailure(problem=problem, is_blamed=is_blamed))

    def _settle_loss(self, replica: Replica, failure: CallFailure) -> None:
        """Take back the requests of a lost engine, and schedule its next start or give the engine up."""
        now = time.monotonic()
        problem = failure.problem
        loss = self._dispatcher.leave(replica.engine, is_blamed=failure.is_blamed)
        if loss.poisoned:
            self._pending.add_poisoned(loss.poisoned, replica.engine, now)
        assert replica.placement is not None, "an engine that is lost was placed"
        node_id, nodes = replica.placement.node_id, tuple(sorted(replica.nodes))
        replica.die(problem)
        self._emit(
            events.EngineLost(
                engine=replica.engine,
                problem=problem,
                in_flight=loss.num_in_flight,
                poisoned=len(loss.poisoned),
                restarts=replica.num_restarts,
                nodes=nodes,
            )
        )
        if failure.is_late:
            not_before = self._supervisor.late(replica.engine, now)
        else:
            not_before = self._supervisor.died(replica.engine, node_id, now, is_blamed=failure.is_blamed)
        if failure.refusal is not None or not_before is None:
            self._give_up(replica, problem, failure.refusal)
        else:
            replica.retry(not_before)
            self._nodes.forget()  # one may just have gone

    def _give_up(self, replica: Replica, problem: str, refusal: Refusal | None) -> None:
        replica.give_up(refusal)
        self._emit(
            events.EngineGivenUp(
                engine=replica.engine, problem=problem, running=self.num_holding, wanted=self._num_wanted
            )
        )

    def _give_up_alike(self, failed: set[str], failure: CallFailure) -> None:
        """No engine has ever started, and one never can on nodes ``failed``: nor can those on nodes of the same kind.

        They would fail one after the other, as each gets its turn.
        """
        nodes = self._nodes.staying(time.monotonic())
        alike = nodes_like(failed, nodes)
        everywhere = alike >= {node.node_id for node in nodes}
        for replica in self._replicas:
            if replica.holds_place and replica.nodes <= alike:
                self._settle_loss(replica, failure)
            elif replica.state is ReplicaState.WAITING and (replica.nodes <= alike if replica.nodes else everywhere):
                replica.die(failure.problem)
                self._give_up(replica, failure.problem, failure.refusal)

    def _ask_again(self, replica: Replica, problem: str) -> None:
        """The connection to an engine broke: either the network failed, or its node died and Ray does not know it yet.

        Asking again finds out which, so that a healthy engine need not be loaded once more. Requests or answers may
        have been lost meanwhile. So the engine gets nothing new until it has answered all that it has; the requests
        that are then still missing are taken back.
        """
        now = time.monotonic()
        unreachable_s = replica.note_unreachable(now)
        if replica.state is not ReplicaState.READY or unreachable_s > _SILENCE_S:
            self._lose(replica, problem, is_blamed=False)
        else:
            replica.exchange(self._epoch, pack([]), [], now)

    def _raise_if_stranded(self, waiting: list[Replica]) -> None:
        """Raise if no engine runs and all have waited too long for a node."""
        limit = self._config.generator.ready_s
        if self._demand and not any(replica.is_asking for replica in waiting):
            self._alive_at = time.monotonic()  # none is wanted yet
        if not any(replica.placement for replica in waiting) and time.monotonic() - self._alive_at > limit:
            raise no_engine_left(self._replicas, f" for {limit:.0f} s (generator.ready_s)")

    def _abort(self) -> None:
        """Give up all requests under way; their answers are not wanted."""
        holders = set(self._dispatcher.drop())
        for replica in self._replicas:
            if replica.state is ReplicaState.READY and (replica.engine in holders or replica.call is not None):
                replica.abort(self._epoch)
