"""The pool of engines on Ray: starts them, feeds them, replaces them when they die.

Called by the driver. Engines pull: each holds one ``exchange`` call, and every answer brings it as many new requests
as the dispatcher has for it. What a dead engine held goes to the others.
"""

import time
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa
import ray

from s3ray.cluster import node_facts
from s3ray.config import RunConfig
from s3ray.errors import PoolError
from s3ray.generator.actor import Exchange
from s3ray.generator.dispatch import Dispatcher
from s3ray.generator.leaving import answers_in_time, close_in_time, sleep_in_time
from s3ray.generator.lookahead import MIN_AHEAD, RequestSource
from s3ray.generator.pending import PendingChunk
from s3ray.generator.placement import place_engine
from s3ray.generator.plan import NodeFacts, Plan
from s3ray.generator.policy import PullPolicy
from s3ray.generator.recipe import Recipe
from s3ray.generator.seat import Seat, SeatState, no_engine_left, why_lost
from s3ray.generator.supervision import Supervisor
from s3ray.generator.wire import pack
from s3ray.monitor.events import (
    EngineAsleep,
    EngineAwake,
    EngineGivenUp,
    EngineLost,
    EngineReady,
    EngineStarting,
    EngineStopped,
    EngineWaiting,
    Event,
)
from s3ray.outcomes import Chunk
from s3ray.types import EngineLimits, FailureReason

Emit = Callable[[Event], None]

_NO_ROOM = "no node has room for it"
_POLL_S = 1.0
_SILENCE_S = 120.0
_NODES_EVERY_S = 3.0


class GeneratorPool:
    """Engines in Ray actors. ``start`` returns at once; ``generate`` feeds each engine from when it is ready."""

    min_ahead = MIN_AHEAD

    def __init__(self, config: RunConfig, recipes: Mapping[str, Recipe], plan: Plan, *, emit: Emit) -> None:
        """``recipes`` by the name that requests give."""
        self._config = config
        self._recipes = recipes
        self._emit = emit
        self._plan = plan
        self.works_while_training = not (plan.engines_leave or plan.sleep_level)
        placements = {placement.engine: placement for placement in plan.engines}
        names = [f"engine-{number}" for number in range(plan.num_wanted)]
        self._seats = [Seat(name, number, placements.get(name)) for number, name in enumerate(names)]
        self._dispatcher = Dispatcher(PullPolicy(), self.min_ahead)
        self._supervisor = Supervisor(config.generator.max_restarts)
        self._nodes: list[NodeFacts] = []
        self._nodes_at = float("-inf")
        self._alive_at = time.monotonic()
        self._epoch = 0
        self._pending = PendingChunk()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start, in parallel, every engine that is not running and has a place."""
        self._alive_at = time.monotonic()
        self._tend()

    def pause(self) -> None:
        """Make way for training: engines on GPUs leave or sleep in swap mode, others only stay idle."""
        if self._plan.engines_leave:
            self.close()
        elif self._plan.sleep_level:
            self._put_to_sleep()

    def _put_to_sleep(self) -> None:
        """First all get ready: a GPU without an engine would be given to two train workers."""
        loading = {seat.call: seat for seat in self._seats if seat.state is SeatState.STARTING}
        for call in answers_in_time(list(loading), self._config.generator.ready_s):
            self._receive(loading[call])
        asleep = sleep_in_time([seat for seat in self._seats if seat.state is SeatState.READY], self._plan.sleep_level)
        for seat in asleep:
            self._dispatcher.leave(seat.engine, is_blamed=False)
            seat.state = SeatState.ASLEEP
            self._emit(EngineAsleep(engine=seat.engine, level=self._plan.sleep_level))
        self._stop([seat for seat in self._running() if seat.state is not SeatState.ASLEEP])

    def close(self) -> None:
        """Stop every engine; one that does not stop in time is killed."""
        self._stop(self._running())

    def _stop(self, seats: list[Seat]) -> None:
        close_in_time([seat for seat in seats if seat.state is not SeatState.STARTING])
        for seat in seats:
            self._dispatcher.leave(seat.engine, is_blamed=False)
            seat.remove()
            self._emit(EngineStopped(engine=seat.engine))

    def _running(self) -> list[Seat]:
        """Those that hold their place."""
        return [seat for seat in self._seats if seat.state in (SeatState.STARTING, SeatState.READY, SeatState.ASLEEP)]

    def _may_start(self) -> bool:
        """Whether one more engine may take its place."""
        return True

    def _tend(self) -> None:
        """Start what may start: engines whose back-off is over, and engines for which a node has room."""
        now = time.monotonic()
        for seat in self._seats:
            if seat.state is SeatState.ASLEEP:
                seat.wake(now)
            is_due = seat.state is SeatState.WAITING and seat.not_before <= now
            if is_due and self._may_start() and self._find_place(seat, now):
                seat.launch(self._config.generator, self._recipes, run=self._config.name, now=now)
                nodes = tuple(sorted(seat.nodes))
                self._emit(EngineStarting(engine=seat.engine, nodes=nodes, restarts=seat.num_restarts))

    def _find_place(self, seat: Seat, now: float) -> bool:
        """Keep the seat's place, or find it another one; False while no node has room."""
        nodes = self._living(now)
        shunned = self._supervisor.shunned(now)
        if seat.placement is not None:
            if seat.nodes <= {node.node_id for node in nodes} - set(shunned):
                return True
            seat.placement = None
        others = [other.placement for other in self._seats if other is not seat and other.placement is not None]
        seat.placement = place_engine(self._config, seat.engine, nodes, others, device=self._plan.device, avoid=shunned)
        if seat.placement is None:
            if not seat.is_homeless:
                seat.problem = _NO_ROOM
                self._emit(
                    EngineWaiting(
                        engine=seat.engine, problem=_NO_ROOM, running=len(self._running()), wanted=len(self._seats)
                    )
                )
            seat.not_before = now + _NODES_EVERY_S
        seat.is_homeless = seat.placement is None
        return not seat.is_homeless

    def _living(self, now: float) -> list[NodeFacts]:
        if now - self._nodes_at > _NODES_EVERY_S:
            self._nodes, self._nodes_at = node_facts(), now
        return self._nodes

    # -- generation ------------------------------------------------------------------------------------------------

    def generate(self, source: RequestSource) -> Iterator[Chunk]:
        """Answer the requests of ``source`` until it wants no more.

        The caller makes each chunk durable and settles it with the source before it asks for the next.

        Raises:
            PoolError: no engine is left.
        """
        self.start()
        self._epoch += 1
        self._pending = PendingChunk()
        for seat in self._seats:
            seat.progress_at = time.monotonic()
        while not source.finished:
            self._feed(source)
            if source.finished:
                break
            try:
                self._wait(source)
            except PoolError:
                if not self._pending.num_rows:
                    raise
                yield self._pending.take()  # what was answered before is not lost, and may be enough
            self._tend()
            if self._pending.is_due(time.monotonic(), nothing_else=self._dispatcher.is_empty):
                yield self._pending.take()
        self._abort()

    def _feed(self, source: RequestSource) -> None:
        """Give every engine that waits for work what the dispatcher has for it."""
        for seat in self._seats:
            if seat.state is not SeatState.READY or seat.call is not None:
                continue
            now = time.monotonic()
            if seat.has_gap:
                seat.exchange(self._epoch, pack([]), [], now)
                continue
            deal = self._dispatcher.deal(seat.engine, source)
            if deal.requests or deal.cancel or self._dispatcher.num_in_flight(seat.engine):
                seat.exchange(self._epoch, pack(deal.requests), deal.cancel, now)
            else:
                seat.progress_at = now  # who has nothing to do does not stall

    def _wait(self, source: RequestSource) -> None:
        """Wait for answers and take in all that are there; look after those that are overdue."""
        calls = {seat.call: seat for seat in self._seats if seat.call is not None}
        if calls:
            done, rest = ray.wait(list(calls), num_returns=1, timeout=_POLL_S)
            if done and rest:
                done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
            for call in done:
                self._receive(calls[call])
            self._look_after([seat for call, seat in calls.items() if seat.call is call])
        elif waiting := [seat for seat in self._seats if seat.state is SeatState.WAITING]:
            self._raise_if_forsaken(waiting)
            time.sleep(_POLL_S / 4)
        elif all(seat.state is SeatState.GIVEN_UP for seat in self._seats):
            raise no_engine_left(self._seats)
        elif source.is_waiting:
            time.sleep(_POLL_S / 4)
        elif not self._pending.num_rows and not source.finished:
            raise RuntimeError("the source is not finished but gives no request")

    def _look_after(self, silent: list[Seat]) -> None:
        """End engines that start, answer or compute for too long."""
        now = time.monotonic()
        living = {node.node_id for node in self._living(now)}
        generator = self._config.generator
        for seat in silent:
            waited = now - seat.called
            if not seat.nodes <= living:
                self._lose(seat, "its node is gone", is_blamed=False)
            elif seat.state is SeatState.STARTING and waited > generator.ready_s:
                self._lose(seat, f"was not ready after {generator.ready_s:.0f} s (generator.ready_s)")
            elif seat.state is SeatState.READY and waited > _SILENCE_S:
                self._lose(seat, f"did not answer for {_SILENCE_S:.0f} s")

    def _receive(self, seat: Seat) -> None:
        call, seat.call = seat.call, None
        try:
            answer = ray.get(call)
        except ray.exceptions.RayError as error:
            why = why_lost(error)
            if why.may_live:
                self._ask_again(seat, why.problem)
            else:
                self._lose(seat, why.problem, is_blamed=why.is_blamed, is_final=why.is_final)
        else:
            if isinstance(answer, EngineLimits):
                self._welcome(seat, answer)
            else:
                self._take_in(seat, answer)

    def _welcome(self, seat: Seat, limits: EngineLimits) -> None:
        now = self._alive_at = time.monotonic()
        seat.state, seat.problem, seat.progress_at = SeatState.READY, "", now
        self._dispatcher.join(seat.engine, limits)
        seconds = now - seat.called
        event, seat.is_waking = EngineAwake if seat.is_waking else EngineReady, False
        self._emit(
            event(
                engine=seat.engine,
                seconds=seconds,
                limits=limits,
                running=len(self._running()),
                wanted=len(self._seats),
            )
        )

    def _take_in(self, seat: Seat, answer: Exchange) -> None:
        """Book what an engine finished; see whether it moves."""
        now = self._alive_at = time.monotonic()
        table, stats = answer.table, answer.stats
        output_tokens = table["num_output_tokens"].to_pylist()
        late: set[int] = set()
        if table.num_rows:
            indexes = table["index"].to_pylist()
            reasons = table["reason"].to_pylist()
            late = {index for index, why in zip(indexes, reasons, strict=True) if why == FailureReason.TIMEOUT.value}
            keep = self._dispatcher.settle(
                seat.engine,
                indexes,
                prompt_tokens=table["num_prompt_tokens"].to_pylist(),
                output_tokens=output_tokens,
                timed_out=late,
            )
            self._pending.add(table if keep is None else table.filter(pa.array(keep)), now)
        self._dispatcher.report(seat.engine, stats)
        self._pending.report(
            seat.engine,
            stats,
            num_rows=table.num_rows,
            num_output_tokens=sum(output_tokens),
            num_restarts=seat.num_restarts,
        )
        progress = (stats.num_output_tokens, stats.num_prompt_tokens, stats.num_replies)
        if table.num_rows > len(late) or progress != seat.progress:
            seat.progress, seat.progress_at = progress, now
        seat.unreachable_since = 0.0
        num_held = self._dispatcher.num_in_flight(seat.engine)
        if answer.death is not None:
            self._lose(seat, answer.death)
        elif num_held and not answer.num_running and seat.has_gap:
            self._dispatcher.take_back(seat.engine)
        elif num_held and not answer.num_running:
            self._lose(seat, f"lost sight of {num_held} requests that it was given")
        elif (num_held or late) and now - seat.progress_at > self._config.generator.stall_s:
            self._lose(
                seat, f"computed nothing for {self._config.generator.stall_s:.0f} s (generator.stall_s): {stats}"
            )
        if not self._dispatcher.num_in_flight(seat.engine):
            seat.has_gap = False

    # -- supervision -----------------------------------------------------------------------------------------------

    def _lose(self, seat: Seat, problem: str, *, is_blamed: bool = True, is_final: bool = False) -> None:
        """Take a lost engine's requests back and say when its seat is filled again, if it is."""
        now = time.monotonic()
        loss = self._dispatcher.leave(seat.engine, is_blamed=is_blamed)
        if loss.poisoned:
            self._pending.add_poisoned(loss.poisoned, seat.engine, now)
        assert seat.placement is not None, "an engine that is lost was placed"
        node_id = seat.placement.node_id
        seat.remove()
        seat.problem = problem
        self._emit(
            EngineLost(
                engine=seat.engine,
                problem=problem,
                in_flight=loss.num_in_flight,
                poisoned=len(loss.poisoned),
                restarts=seat.num_restarts,
                nodes=tuple(sorted(seat.nodes)),
            )
        )
        not_before = self._supervisor.died(seat.engine, node_id, now, is_blamed=is_blamed)
        if is_final or not_before is None:
            seat.state, seat.placement = SeatState.GIVEN_UP, None
            self._emit(
                EngineGivenUp(
                    engine=seat.engine, problem=problem, running=len(self._running()), wanted=len(self._seats)
                )
            )
        else:
            seat.num_restarts += 1
            seat.not_before = not_before
            self._nodes_at = float("-inf")  # what was known of the nodes may be what has just changed

    def _ask_again(self, seat: Seat, problem: str) -> None:
        """The line to an engine is broken: either the network stumbled, or its node died and Ray does not know it yet.

        Asking again finds out which, and saves a healthy engine from being loaded once more. Requests or answers may
        have fallen into the gap: it gets nothing new until what it still has is answered; what is missing then is
        taken back.
        """
        now = time.monotonic()
        seat.unreachable_since = seat.unreachable_since or now
        if seat.state is not SeatState.READY or now - seat.unreachable_since > _SILENCE_S:
            self._lose(seat, problem, is_blamed=False)
        else:
            seat.has_gap = True
            seat.exchange(self._epoch, pack([]), [], now)

    def _raise_if_forsaken(self, waiting: list[Seat]) -> None:
        """Engines may wait for a node, but not for ever, if none of them is running."""
        limit = self._config.generator.ready_s
        if not any(seat.placement for seat in waiting) and time.monotonic() - self._alive_at > limit:
            raise no_engine_left(self._seats, f" for {limit:.0f} s (generator.ready_s)")

    def _abort(self) -> None:
        """Give up what is still under way; its answers are not wanted."""
        holders = set(self._dispatcher.drop())
        for seat in self._seats:
            if seat.state is SeatState.READY and (seat.engine in holders or seat.call is not None):
                seat.abort(self._epoch)
